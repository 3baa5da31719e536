//! Rule L11 where a removed file has a name until nobody has it open: on FUSE, as on NFS.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use serde_json::json;

use super::ground::Ground;
use crate::harness::faults::fuse;
use crate::harness::pool_process::{PATIENCE, PoolProcess, Setting};
use crate::harness::prelude::*;
use crate::harness::shim::until;

/// Has one of the ready overlays open between these two files' appearance; `opened` tells.
const HOLD: &str = r#"
    until [ -e open ]; do sleep 0.01; done
    set -- pool/pool-*/*
    exec 9<"$1"
    : >opened
    until [ -e close ]; do sleep 0.01; done
"#;

#[apply(test)]
#[needs(Fuse, MountNamespace)]
fn l11_what_is_still_open_goes_when_it_is_closed(scratch: Scratch) {
    let ground = Ground::new(&scratch);
    let in_folder = |name: &str| ground.folder.join(name);
    let touch = |name: &str| File::create(in_folder(name)).expect("a file");
    std::fs::create_dir(in_folder("pool")).expect("a folder");
    // Only who is in its namespace may enter that filesystem.
    let script =
        format!("{}({HOLD}) </dev/null >/dev/null 2>&1 &\nexec \"$@\"", fuse::mount("pool"));
    let unshare = ["unshare", "--map-root-user", "--mount", "sh", "-ec", &script, "sh"];
    let prefix = unshare.map(str::to_owned).to_vec();
    let setting = Setting::new(CreatorKind::Native);
    let mut pool = PoolProcess::under(prefix, &ground.folder, setting);
    pool.start(&[&ground.one]).expect("an answer").expect("started");
    touch("open");
    assert!(until(PATIENCE, || in_folder("opened").exists()), "a ready overlay is opened");

    let stop = pool.send("stop", json!({})).expect("sent");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(pool.directories().len(), 1, "a name is left for what is open");
    touch("close");
    pool.answer(stop).expect("an answer").expect("stopped");
    assert_eq!(pool.directories(), [] as [PathBuf; 0]);
    pool.exit().expect("it exits");
}
