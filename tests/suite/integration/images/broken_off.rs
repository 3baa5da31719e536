//! Networks, disks and registries that fail.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::cli::{clean, run};
use crate::harness::prelude::*;
use crate::harness::proxy::Proxy;
use crate::harness::registry::{Registry, content, disk, images, store, stored};

const NEEDS: &[Need] = &[Need::Registry];

/// What manifests and heads may take beside the blob.
const BESIDE: u64 = 300_000;
/// What may be on its way when a connection ends.
const ON_ITS_WAY: u64 = 1 << 20;

/// A registry with an image of some megabytes behind a proxy.
fn behind_a_proxy(scratch: &Scratch) -> (Registry, Proxy, Vec<u8>) {
    let registry = Registry::start(scratch);
    let proxy = Proxy::start(registry.address());
    let bytes = disk(8, 1);
    registry.put_disk("x", "1", &bytes);
    (registry, proxy, bytes)
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program runs")
}

#[apply(test)]
fn a_connection_that_is_cut_is_taken_up_again(scratch: Scratch) {
    let (_registry, proxy, bytes) = behind_a_proxy(&scratch);
    proxy.cut(5 << 20);
    let pulled = run(&mut images(&scratch, &["pull", &proxy.image("x:1")]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert_eq!(std::fs::read(stored(&scratch, &bytes)).expect("the image"), bytes);
    let most = bytes.len() as u64 + ON_ITS_WAY + BESIDE;
    assert!(proxy.passed() < most, "{} of {}", proxy.passed(), bytes.len());
}

#[apply(test)]
async fn a_killed_pull_is_gone_on_with(scratch: Scratch, #[values(1, 3, 7)] mib: u64) {
    let (_registry, proxy, bytes) = behind_a_proxy(&scratch);
    let image = proxy.image("x:1");
    proxy.stop(mib << 20);
    let mut child = start(&mut images(&scratch, &["pull", &image]));
    let partial = store(&scratch).join("partial");
    let received = || {
        let files = partial.read_dir().into_iter().flatten().flatten();
        files.map(|file| file.metadata().map_or(0, |found| found.len())).sum::<u64>()
    };
    let enough = (mib << 20) - BESIDE;
    eventually("it hangs", || proxy.is_stopped() && received() >= enough).await;
    child.kill().and_then(|()| child.wait()).expect("killed");
    assert_eq!(content(&scratch).len(), 1, "nothing but a part of it: {:?}", content(&scratch));
    proxy.go_on();
    let before = proxy.passed();
    let pulled = run(&mut images(&scratch, &["pull", &image]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert_eq!(std::fs::read(stored(&scratch, &bytes)).expect("the image"), bytes);
    // What the killed one had asked for is still on its way for a while.
    let most = bytes.len() as u64 - enough + ON_ITS_WAY + 2 * BESIDE;
    assert!(proxy.passed() - before < most, "{} again", proxy.passed() - before);
}

/// A part that is no part of it, as after a power failure.
#[apply(test)]
fn what_is_left_and_wrong_is_received_again(scratch: Scratch) {
    let (registry, _proxy, bytes) = behind_a_proxy(&scratch);
    let image = registry.image("x:1");
    let file = stored(&scratch, &bytes);
    let partial = store(&scratch).join("partial").join(file.file_name().expect("a name"));
    std::fs::create_dir_all(partial.parent().expect("a folder")).expect("a folder");
    for wrong in [vec![0; 1 << 20], vec![0; bytes.len()], vec![0; bytes.len() + 1]] {
        std::fs::write(&partial, wrong).expect("a file");
        let pulled = run(&mut images(&scratch, &["pull", &image]));
        assert_eq!(pulled.code, Some(0), "{pulled}");
        assert_eq!(std::fs::read(&file).expect("the image"), bytes);
        std::fs::remove_file(&file).expect("removed");
    }
}

#[apply(test)]
fn a_slow_registry_is_waited_for(scratch: Scratch) {
    let (_registry, proxy, bytes) = behind_a_proxy(&scratch);
    // In all it takes longer than it may be silent.
    proxy.slow_down(5);
    let arguments = ["pull", "--timeout", "2s", "--retries", "0", &proxy.image("x:1")];
    let pulled = run(&mut images(&scratch, &arguments));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert_eq!(std::fs::read(stored(&scratch, &bytes)).expect("the image"), bytes);
}

#[apply(test)]
#[case::at_once(0)]
#[case::within_the_blob(3 << 20)]
fn a_silent_registry_is_given_up(scratch: Scratch, #[case] after: u64) {
    let (_registry, proxy, _bytes) = behind_a_proxy(&scratch);
    proxy.stop(after);
    let arguments = ["pull", "--timeout", "500ms", "--retries", "1", &proxy.image("x:1")];
    let failed = run(&mut images(&scratch, &arguments));
    assert_eq!(failed.code, Some(1), "{failed}");
    assert!(failed.stderr.contains("no answer, or not all of it"), "{failed}");
    let left = content(&scratch);
    assert!(left.iter().all(|path| path.starts_with("partial/")), "{left:?}");
    proxy.go_on();
    let pulled = run(&mut images(&scratch, &["pull", &proxy.image("x:1")]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
}

#[apply(test)]
async fn an_interrupt_ends_it(scratch: Scratch) {
    let (_registry, proxy, _bytes) = behind_a_proxy(&scratch);
    proxy.stop(3 << 20);
    let mut child = start(&mut images(&scratch, &["pull", &proxy.image("x:1")]));
    eventually("it hangs", || proxy.is_stopped()).await;
    kill_process(Pid::from_child(&child), Signal::INT).expect("a signal");
    assert_eq!(child.wait().expect("its status").code(), Some(130));
}

#[apply(test)]
async fn two_pulls_of_one_image_receive_it_once(scratch: Scratch) {
    let (_registry, proxy, bytes) = behind_a_proxy(&scratch);
    proxy.stop(2 << 20);
    let image = proxy.image("x:1");
    let mut children = [0; 3].map(|_| start(&mut images(&scratch, &["pull", &image])));
    eventually("they hang", || proxy.is_stopped()).await;
    proxy.go_on();
    for child in &mut children {
        assert!(child.wait().expect("its status").success());
    }
    assert_eq!(std::fs::read(stored(&scratch, &bytes)).expect("the image"), bytes);
    assert_eq!(content(&scratch).len(), 2, "{:?}", content(&scratch));
    let most = bytes.len() as u64 + 3 * BESIDE;
    assert!(proxy.passed() < most, "{} of {}", proxy.passed(), bytes.len());
}

/// Runs a pull into a store on a tmpfs of this size, and lists the files that are there then.
fn into_tmpfs(scratch: &Scratch, mib: u64, arguments: &[&str]) -> (Option<i32>, String) {
    let script = format!(
        "mkdir store && mount -t tmpfs -o size={mib}m none store && shift; \
         \"$0\" images pull \"$@\"; code=$?; find store -type f ! -name .lock; \
         find store -type l; exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    command.args([env!("CARGO_BIN_EXE_overlay-pool"), "x"]).args(arguments);
    command.env("OVERLAY_POOL_STORE", store(scratch));
    let mut command = clean(command, scratch);
    command.env("OVERLAY_POOL_STORE", store(scratch));
    let answered = run(&mut command);
    (answered.code, answered.stdout + &answered.stderr)
}

#[apply(test)]
#[needs(MountNamespace)]
fn a_full_disk_is_said_and_left_as_it_was(scratch: Scratch) {
    let (registry, _proxy, bytes) = behind_a_proxy(&scratch);
    let (code, said) = into_tmpfs(&scratch, 4, &[&registry.image("x:1")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("{} bytes are needed", bytes.len())), "{said}");
    assert!(!said.contains("store/sha256/") && !said.contains("store/partial/"), "{said}");
}

/// Nobody could know before: the layer is small, and the disk in it isn't.
#[apply(test)]
#[needs(MountNamespace)]
fn a_disk_that_fills_while_unpacking_is_left_as_it_was(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    std::fs::create_dir(scratch.join("disk")).expect("a folder");
    let file = std::fs::File::create(scratch.join("disk/x")).expect("a file");
    file.set_len(20 << 20).expect("zeros");
    let layer = Command::new("tar").args(["-czf", "-", "disk"]).current_dir(&scratch).output();
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layer = registry.put_blob("x", kind, &layer.expect("tar runs").stdout);
    registry.put_image("x", "1", &[layer]);
    let (code, said) = into_tmpfs(&scratch, 6, &["--raw", &registry.image("x:1")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("No space left") && said.contains("make room there"), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("store/")), "{said}");
}
