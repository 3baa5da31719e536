//! A server that keeps images of a registry.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::cli::run;
use crate::harness::prelude::*;
use crate::harness::proxy::Proxy;
use crate::harness::registry::{Registry, disk, images, store, stored};
use crate::harness::server::Server;

const NEEDS: &[Need] = &[Need::Registry];

/// `serve` with two overlays ready of each image, its store and targets in the test's folder.
pub(super) fn serve(scratch: &Path, arguments: &[&str]) -> Server {
    let mut command = Server::command(scratch);
    command.args(["--max-vms", "4", "--targets", "vms", "--restock-interval", "0s"]);
    command.args(arguments).env("OVERLAY_POOL_STORE", store(scratch));
    std::fs::create_dir_all(scratch.join("vms")).expect("a folder");
    Server::launch(scratch, &mut command)
}

pub(super) fn name(scratch: &Path, image: &str) -> PathBuf {
    let (repository, tag) = image.rsplit_once(':').expect("a tag");
    store(scratch).join(repository).join(format!("{tag}.qcow2"))
}

/// Waits until a name leads to an image in the store.
fn await_image(server: &mut Server, name: &Path, image: &Path) {
    server.await_that("the name leads to the new one", |_| {
        name.canonicalize().is_ok_and(|path| path == image)
    });
}

/// A server that has an image through a proxy, whose tag has moved to one of so many MiB since.
struct Behind {
    _registry: Registry,
    proxy: Proxy,
    server: Server,
    image: String,
    name: PathBuf,
    /// Where the images are in the store, once they are there.
    old: PathBuf,
    new: PathBuf,
}

impl Behind {
    fn start(scratch: &Path, mib: usize) -> Self {
        let registry = Registry::start(scratch);
        let proxy = Proxy::start(registry.address());
        let (old, new) = (disk(1, 1), disk(mib, 2));
        registry.put_disk("x", "1", &old);
        let image = proxy.image("x:1");
        let mut server = serve(scratch, &["--image", &image]);
        server.await_ready();
        // That it looks at its start finds the old one.
        server.await_that("it looks", |server| server.log().contains("looked for other images"));
        registry.put_disk("x", "1", &new);
        let name = name(scratch, &image);
        let [old, new] = [old, new].map(|bytes| stored(scratch, &bytes));
        Self { _registry: registry, proxy, server, image, name, old, new }
    }
}

/// How many overlays of a base image are ready.
fn ready(server: &Server, base: &Path) -> u64 {
    let ready = server.get("/v1/stats").json()["ready"][base.to_str().expect("text")].as_u64();
    ready.unwrap_or(0)
}

/// Acquires by a base image's name; gives what was resolved.
fn acquire(server: &Server, scratch: &Path, base: &Path, target: &str) -> (String, PathBuf) {
    let answer = server.acquire(base, &scratch.join("vms").join(target));
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.log());
    let answer = answer.json();
    let text = |field: &str| answer[field].as_str().expect("text").to_owned();
    (text("source"), text("base").into())
}

#[apply(test)]
#[case::by_signal(&[])]
#[case::by_the_clock(&["--image-refresh", "200ms"])]
fn a_tag_that_moved_is_followed(scratch: Scratch, #[case] more: &[&str]) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(1, 1), disk(1, 2));
    registry.put_disk("x", "1", &old);
    let image = registry.image("x:1");
    let mut server = serve(&scratch, &[&["--image", &image], more].concat());
    server.await_ready();
    let name = name(&scratch, &image);
    let [old, new] = [old, new].map(|bytes| (stored(&scratch, &bytes), bytes));
    assert_eq!(ready(&server, &old.0), 2, "{}", server.log());
    let acquired = acquire(&server, &scratch, &name, "1.qcow2");
    assert_eq!(acquired, ("pooled".to_owned(), old.0.clone()));

    registry.put_disk("x", "1", &new.1);
    if more.is_empty() {
        server.signal(Signal::HUP);
    }
    await_image(&mut server, &name, &new.0);
    // Its shelf was full by then.
    let acquired = acquire(&server, &scratch, &name, "2.qcow2");
    assert_eq!(acquired, ("pooled".to_owned(), new.0.clone()));
    server.await_that("the old one is given up", |server| {
        let bases = server.get("/v1/bases").json();
        let paths: Vec<_> =
            bases.as_array().expect("a list").iter().map(|base| &base["path"]).cloned().collect();
        paths == [json!(new.0)]
    });
    // A disk refers to it.
    assert!(old.0.exists());
    std::fs::remove_file(scratch.join("vms/1.qcow2")).expect("removed");
    server.signal(Signal::HUP);
    server.await_that("the old one is pruned", |_| !old.0.exists());
    assert!(new.0.exists());
    server.stop();
}

/// The file that the servers of a cluster are given, with its example turned into an image that is there.
#[apply(test)]
fn a_node_keeps_what_its_file_names(scratch: Scratch) {
    const EXAMPLE: &str = "#image = [\"ghcr.io/acme/python:3.13\"]";
    const STORE: &str = "/var/lib/overlay-pool/images";
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 1);
    registry.put_disk("x", "1", &bytes);
    let image = registry.image("x:1");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/kubernetes/server.toml");
    let mut text = std::fs::read_to_string(file).expect("a file");
    let its_store = store(&scratch).display().to_string();
    for (told, ours) in [(EXAMPLE, format!("image = [{image:?}]")), (STORE, its_store)] {
        assert_eq!(text.matches(told).count(), 1, "{text}");
        text = text.replace(told, &ours);
    }
    let file = scratch.join("server.toml");
    std::fs::write(&file, text).expect("a file");
    let mut server = serve(&scratch, &["--config", file.to_str().expect("text")]);
    server.await_ready();
    assert_eq!(ready(&server, &stored(&scratch, &bytes)), 2, "{}", server.log());
    let acquired = acquire(&server, &scratch, &name(&scratch, &image), "1.qcow2");
    assert_eq!(acquired, ("pooled".to_owned(), stored(&scratch, &bytes)));
}

/// The registry may be gone, slow or silent: what is there is served.
#[apply(test)]
fn what_can_t_be_had_is_in_nobody_s_way(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 1);
    registry.put_disk("x", "1", &bytes);
    let image = registry.image("x:1");
    assert_eq!(run(&mut images(&scratch, &["pull", &image])).code, Some(0));
    drop(registry);
    let missing = image.replace("x:1", "y:1");
    let arguments = ["--image", &image, "--image", &missing, "--image-refresh", "1h"];
    let mut server = serve(&scratch, &arguments);
    server.await_ready();
    let log = server.log();
    assert!(log.contains(&missing) && log.contains("no answer"), "{log}");
    let acquired = acquire(&server, &scratch, &name(&scratch, &image), "1.qcow2");
    assert_eq!(acquired, ("pooled".to_owned(), stored(&scratch, &bytes)));
    server.stop();
}

/// What is pulled is looked at in vain, or as a whole.
#[apply(test)]
fn half_an_image_is_never_served(scratch: Scratch) {
    let behind = Behind::start(&scratch, 6);
    let Behind { ref proxy, mut server, ref image, ref name, ref old, ref new, .. } = behind;
    proxy.stop(3 << 20);
    server.signal(Signal::HUP);
    server.await_that("it hangs in the middle", |_| proxy.is_stopped());
    for number in 0..3 {
        let acquired = acquire(&server, &scratch, name, &format!("{number}.qcow2"));
        assert_eq!(acquired.1, *old);
    }
    // Killed now, it leaves no puller behind; the next one goes on with what there is.
    server.signal(Signal::KILL);
    drop(server);
    proxy.go_on();
    let mut server = serve(&scratch, &["--image", image]);
    await_image(&mut server, name, new);
    server.await_ready();
    server.stop();
}

/// What was received before the network was gone for long isn't asked for again.
#[apply(test)]
fn a_pull_that_was_given_up_is_gone_on_with(scratch: Scratch) {
    let behind = Behind::start(&scratch, 8);
    let Behind { ref proxy, mut server, ref name, ref new, .. } = behind;
    proxy.sever(6 << 20);
    server.signal(Signal::HUP);
    server.await_that("it is given up", |server| server.log().contains("no answer, or not all"));
    proxy.go_on();
    let before = proxy.passed();
    // It prunes before it looks again.
    server.signal(Signal::HUP);
    await_image(&mut server, name, new);
    let again = proxy.passed() - before;
    assert!(again < 5 << 20, "{again} bytes");
    server.stop();
}

/// The server's own files aren't its clients' to replace.
#[apply(test)]
fn no_disk_in_the_store(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 1);
    registry.put_disk("x", "1", &bytes);
    let image = registry.image("x:1");
    // As it is by default: below the place of pools, where targets are.
    let own = scratch.join("pool/base-images");
    let mut command = Server::command(&scratch);
    command.args(["--max-vms", "4", "--image", &image]).env("OVERLAY_POOL_STORE", &own);
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let name = name(&scratch, &image);
    let base = own.join(name.strip_prefix(store(&scratch)).expect("it is there"));
    for below in [&format!("sha256/{}", "0".repeat(64)), "localhost", "partial/x"] {
        let target = own.join(below);
        assert_eq!(server.acquire(&base, &target).problem(422), "bad-target", "{below}");
        assert!(!target.exists());
    }
    assert_eq!(server.acquire(&base, &scratch.join("pool/vm.qcow2")).status, 200);
    server.stop();
}

#[apply(test)]
fn told_to_end_it_waits_for_no_registry(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let proxy = Proxy::start(registry.address());
    registry.put_disk("x", "1", &disk(1, 1));
    proxy.stop(0);
    let mut server = serve(&scratch, &["--image", &proxy.image("x:1")]);
    server.await_that("it listens", |server| server.log().contains("listening"));
    server.stop();
}

/// Two servers of one store, each with targets that the other wasn't told of.
#[apply(test)]
fn two_servers_share_a_store(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(2, 1), disk(2, 2));
    registry.put_disk("x", "1", &old);
    let image = registry.image("x:1");
    let folders = ["one", "two"].map(|name| scratch.join(name));
    let start = |folder: &PathBuf| {
        std::fs::create_dir_all(folder.join("vms")).expect("a folder");
        let mut command = Server::command(folder);
        command.args(["--max-vms", "4", "--targets", "vms", "--image", &image]);
        Server::launch(folder, command.env("OVERLAY_POOL_STORE", store(&scratch)))
    };
    let mut servers = folders.each_ref().map(start);
    for server in &mut servers {
        server.await_ready();
    }
    let name = name(&scratch, &image);
    assert_eq!(acquire(&servers[0], &folders[0], &name, "1.qcow2").1, stored(&scratch, &old));
    registry.put_disk("x", "1", &new);
    for server in &servers {
        server.signal(Signal::HUP);
    }
    for server in &mut servers {
        server.await_that("it keeps the new one", |server| {
            ready(server, &stored(&scratch, &new)) == 2
        });
    }
    // The second doesn't know the first one's disk, but the store does.
    let [mut first, second] = servers;
    second.stop();
    first.await_that("nobody is at it", |_| run(&mut images(&scratch, &["prune"])).code == Some(0));
    assert!(stored(&scratch, &old).exists() && stored(&scratch, &new).exists());
    std::fs::remove_file(folders[0].join("vms/1.qcow2")).expect("removed");
    first.await_that("it goes", |_| {
        run(&mut images(&scratch, &["prune"])).code == Some(0) && !stored(&scratch, &old).exists()
    });
    first.stop();
}

/// In a file the keys are the options; what can't be understood is said at once.
#[apply(test)]
fn a_file_may_name_images(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 1);
    registry.put_disk("hub/x", "1", &bytes);
    let config = format!(
        "image = ['nowhere.invalid/x:1']\nimage-refresh = '1h'\nimage-limit = '1G'\n\
         image-mirror = ['nowhere.invalid={}']\n",
        registry.image("hub")
    );
    std::fs::write(scratch.join("config.toml"), config).expect("a file");
    let mut server = serve(&scratch, &["--config", "config.toml"]);
    server.await_ready();
    assert_eq!(ready(&server, &stored(&scratch, &bytes)), 2, "{}", server.log());
    server.stop();
    let mut command = Server::command(&scratch);
    let refused = run(command.args(["--image", "python"]));
    assert_eq!(refused.code, Some(2), "{refused}");
}
