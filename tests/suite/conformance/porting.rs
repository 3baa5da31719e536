//! "Porting in an afternoon", as its reader tries it.

use crate::harness::judge::judge;
use crate::harness::prelude::*;

use super::ports::repository;

/// The first block of JavaScript of a text, without the indent that it has there.
fn javascript(text: &str) -> String {
    let (_, rest) = text.split_once("```js\n").expect("a block");
    let (block, last) = rest.split_once("```").expect("its end");
    assert!(last.starts_with('\n'), "the block's end");
    block.lines().map(|line| line.strip_prefix("   ").unwrap_or(line).to_owned() + "\n").collect()
}

/// The guide's shim is whole but for its pool, as it says: with one, it passes.
#[apply(test)]
#[needs(Node, QemuImg)]
fn the_shim_of_the_guide_passes_the_core(scratch: Scratch) {
    let guide = repository().join("tests/conformance/PORTING.md");
    let guide = std::fs::read_to_string(guide).expect("the guide");
    std::fs::write(scratch.join("shim.mjs"), javascript(&guide)).expect("a shim");
    let pool = repository().join("fixtures/ports/javascript/pool.mjs");
    std::fs::copy(pool, scratch.join("pool.mjs")).expect("a pool");
    let command = "overlay-pool-conformance run --shim 'node shim.mjs' --level core --patience 5";
    assert!(guide.contains(command), "the guide's command is another");

    let mut judge = judge();
    judge.args(["run", "--shim", "node shim.mjs", "--level", "core"]);
    let output = judge.current_dir(&*scratch).env("TMPDIR", &*scratch).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
}
