//! The client in Python as a package, and what generators make of the `OpenAPI` document.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::cli::{self, Answer};
use crate::harness::node;
use crate::harness::prelude::*;
use crate::harness::python::program;
use crate::harness::server::{self, Server};

fn fixture(name: &str) -> PathBuf {
    let repository = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    repository.join("fixtures").join(name)
}

/// Runs to the end, and well.
#[track_caller]
fn succeed(command: &mut Command) -> Answer {
    let answer = cli::run(command);
    assert_eq!(answer.code, Some(0), "{command:?}\n{answer}");
    answer
}

/// `python3` of the tests' environment, which writes nothing beside its sources.
fn python(path: &Path) -> Command {
    let mut command = Command::new(program("python3"));
    command.arg("-B").env("PYTHONPATH", path);
    command
}

/// Runs the client's own tests with the package in `path`.
#[track_caller]
fn test(scratch: &Path, path: &Path) {
    let server = Server::of_one_base(scratch);
    let mut command = python(path);
    // A file or socket that isn't closed is a warning.
    command
        .args(["-W", "error"])
        .arg(fixture("clients/python/tests/test_client.py"))
        .current_dir(scratch);
    command.env("OVERLAY_POOL_SOCKET", server.socket());
    command.env("BASE", server::base(scratch)).env("TARGETS", server::vms(scratch));
    let Answer { stderr, .. } = succeed(&mut command);
    assert!(!stderr.contains("Ran 0 tests") && stderr.contains("OK"), "{stderr}");
    server.stop();
}

/// Has a client ask for the same target twice: the second time it is told that it exists.
#[track_caller]
fn ask_twice(scratch: &Path, client: impl Fn() -> Command) {
    let server = Server::of_one_base(scratch);
    let target = server::vms(scratch).join("disk.qcow2");
    let ask = || {
        let mut command = client();
        command.arg(server.socket()).arg(server::base(scratch)).arg(&target);
        cli::run(&mut command)
    };
    let (first, second) = (ask(), ask());
    assert!(first.code == Some(0) && first.stdout.starts_with("pooled "), "{first}");
    assert!(second.code == Some(1) && second.stderr.starts_with("already-exists: "), "{second}");
    server.stop();
}

#[apply(test)]
#[needs(Python)]
fn the_python_client_does_all_that_a_server_can(scratch: Scratch) {
    test(&scratch, &fixture("clients/python/src"));
}

#[apply(test)]
#[needs(Python)]
fn the_python_client_asks_for_what_the_document_says() {
    let mut command = python(&fixture("clients/python/src"));
    command.arg(fixture("clients/python/tests/test_document.py"));
    succeed(command.env("OPENAPI", fixture("openapi.json")));
}

#[apply(test)]
#[needs(PythonBuild)]
fn a_wheel_is_built_and_works_where_it_is_installed(scratch: Scratch) {
    let (wheels, site) = (scratch.join("wheels"), scratch.join("site"));
    let pip = || {
        let mut command = python("".as_ref());
        command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
        command.env("PIP_NO_INDEX", "1");
        command
    };
    let mut build = pip();
    build.args(["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir"]).arg(&wheels);
    succeed(build.arg(fixture("clients/python")));
    let built: Vec<_> = wheels.read_dir().expect("wheels").flatten().collect();
    let [wheel] = &built[..] else { panic!("not one wheel: {built:?}") };
    let name = wheel.file_name().into_string().expect("a plain name");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(name, format!("overlay_pool-{version}-py3-none-any.whl"));
    succeed(pip().args(["install", "--target"]).arg(&site).arg(wheel.path()));
    assert!(site.join("overlay_pool/py.typed").is_file());
    test(&scratch, &site);
}

#[apply(test)]
#[needs(PythonBuild)]
fn the_python_client_s_types_hold(scratch: Scratch) {
    let mut command = python("".as_ref());
    command.args(["-m", "mypy", "--cache-dir"]).arg(scratch.join("cache"));
    succeed(command.current_dir(fixture("clients/python")));
}

/// What its README shows is what it has; and what needs no VM does what it says.
#[apply(test)]
#[needs(PythonBuild)]
fn the_python_client_s_readme_is_true(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let text = std::fs::read_to_string(fixture("clients/python/README.md")).expect("a README");
    let [socket, base, vms] = [server::socket, server::base, server::vms].map(|of| of(&scratch));
    let text = text
        .replace("/run/overlay-pool/pool.sock", &socket.to_string_lossy())
        .replace("/var/lib/vms/images/python-3-base-x86_64.qcow2", &base.to_string_lossy())
        .replace("/var/lib/vms/run/", &format!("{}/", vms.display()));
    for number in [17, 18, 19] {
        std::fs::create_dir_all(vms.join(number.to_string())).expect("a folder of a VM");
    }
    let blocks = text.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    let blocks: Vec<_> = blocks.map(in_a_module).collect();
    let module = |blocks: &[String]| {
        std::fs::write(scratch.join("readme.py"), blocks.concat()).expect("a module");
        python(&fixture("clients/python/src"))
    };
    let mut command = module(&blocks);
    command.args(["-m", "mypy", "--strict", "--cache-dir"]).arg(scratch.join("cache"));
    command.env("MYPYPATH", fixture("clients/python/src"));
    succeed(command.arg(scratch.join("readme.py")));
    let (with_vms, others): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|block| block.contains("execute("));
    assert_eq!((with_vms.len(), others.len()), (1, 3));
    let mut command = module(&others);
    command.args(["-W", "error"]).arg(scratch.join("readme.py"));
    let Answer { stdout, .. } = succeed(command.env("OVERLAY_POOL_SOCKET", &socket));
    assert!(stdout.starts_with("pooled ") && stdout.contains("already exists"), "{stdout}");
    server.stop();
}

/// A block as a module may have it: there `await` is for functions.
fn in_a_module(block: &str) -> String {
    if !block.contains("await ") {
        return block.to_owned();
    }
    let body = block.lines().fold(String::new(), |body, line| body + "    " + line + "\n");
    format!("import asyncio\nasync def example() -> None:\n{body}asyncio.run(example())\n")
}

#[apply(test)]
#[needs(OpenapiPythonClient)]
fn a_generator_makes_a_python_client_of_the_document(scratch: Scratch) {
    let generator = program("openapi-python-client");
    // It looks for its formatter there.
    let tools = generator.parent().expect("a folder").display().to_string();
    let path = format!("{tools}:{}", std::env::var("PATH").expect("a PATH"));
    let mut generate = Command::new(&generator);
    generate.args(["generate", "--meta", "none", "--fail-on-warning", "--path"]);
    generate.arg(fixture("openapi.json")).arg("--output-path").arg(scratch.join("generated"));
    generate.arg("--config").arg(fixture("clients/openapi-python-client.yml"));
    succeed(generate.env("PATH", path));
    ask_twice(&scratch, || {
        let mut command = python(&scratch);
        command.arg(fixture("clients/generated_client.py"));
        command
    });
}

#[apply(test)]
#[needs(OpenapiTypescript)]
fn a_generator_makes_typescript_s_types_of_the_document(scratch: Scratch) {
    let mut generate = Command::new(node::program("openapi-typescript"));
    generate.arg(fixture("openapi.json")).arg("--output").arg(scratch.join("openapi.d.ts"));
    succeed(&mut generate);
    let client = scratch.join("generated_client.ts");
    std::fs::copy(fixture("clients/generated_client.ts"), &client).expect("a copy");
    let mut compile = Command::new(node::program("tsc"));
    compile.args(["--strict", "--noEmitOnError", "--module", "commonjs", "--target", "es2022"]);
    compile.arg("--typeRoots").arg(node::modules().join("@types")).args(["--types", "node"]);
    succeed(compile.arg(&client));
    ask_twice(&scratch, || {
        let mut command = Command::new("node");
        command.arg(scratch.join("generated_client.js"));
        command
    });
}
