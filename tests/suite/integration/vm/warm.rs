//! VMs that wait for code.

use std::collections::BTreeMap;
use std::time::Duration;

use overlay_pool::Source;
use overlay_pool::vm::{Language, Start, VmError, VmManager, VmSettings};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::fake_tool::script;
use crate::harness::pool_process::directories;
use crate::harness::pools::children;
use crate::harness::prelude::*;
use crate::harness::vms::{
    assert_no_vm_left, create, images, prints, settings, until_ready, warmed,
};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

fn ready(manager: &VmManager) -> usize {
    manager.warm_stats(Language::PYTHON).ready
}

#[apply(test)]
async fn one_that_waits_is_given_out_and_replaced(scratch: Scratch) {
    let manager = warmed(settings(&scratch), Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!((vm.start(), vm.disk_source()), (Some(Start::Warm), Some(Source::Pooled)));
    let code = "import socket\nprint(socket.gethostname())\nopen('/root/file', 'w').write('x')";
    assert_eq!(prints(&vm, code).await, format!("{}\n", vm.id()));
    // It can be used again, as any other.
    assert_eq!(prints(&vm, "print(open('/root/file').read())").await, "x\n");
    until_ready(&manager, Language::PYTHON, 1).await;
    let other = create(&manager, Language::PYTHON).await;
    assert_eq!(other.start(), Some(Start::Warm));
    assert_ne!(vm.id(), other.id());
    let files = "import os\nprint(os.listdir('/root'))";
    assert_eq!(prints(&other, files).await, "[]\n", "nothing of the first one's is there");
    let stats = manager.warm_stats(Language::PYTHON);
    assert_eq!((stats.hits, stats.misses), (2, 0));
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// The clock of one that waits stands still; it is set when it goes on.
#[apply(test)]
async fn the_clock_of_one_that_waited_is_right(scratch: Scratch) {
    let manager = warmed(settings(&scratch), Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let begin = now().expect("a time");
    eventually("time passes", || now().expect("a time") > begin + Duration::from_secs(3)).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Warm));
    let before = now().expect("a time");
    let said = prints(&vm, "import time\nprint(time.time())").await;
    let inside = Duration::from_secs_f64(said.trim().parse().expect("a number"));
    let slack = Duration::from_secs(2);
    assert!(before < inside + slack && inside < now().expect("a time") + slack, "{inside:?}");
    manager.stop().await;
}

#[apply(test)]
async fn one_that_died_is_not_given_out(scratch: Scratch) {
    let manager = warmed(settings(&scratch), Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    for pid in children().into_keys() {
        let pid = Pid::from_raw(pid).expect("a PID");
        kill_process(pid, Signal::KILL).expect("it is killed");
    }
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(prints(&vm, "print('well')").await, "well\n");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// It is given up in its time, and the next one that waits, or a new one, takes its place.
#[apply(test)]
async fn one_that_hangs_is_given_up(scratch: Scratch) {
    let manager = warmed(settings(&scratch), Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    let hung = children();
    for pid in hung.keys() {
        let pid = Pid::from_raw(*pid).expect("a PID");
        kill_process(pid, Signal::STOP).expect("it is stopped");
    }
    let vm = create(&manager, Language::PYTHON).await;
    let of_vm = |pid: i32| u32::try_from(pid).ok() == vm.pid();
    assert!(!hung.keys().any(|pid| of_vm(*pid)), "it hangs");
    assert_eq!(prints(&vm, "print('well')").await, "well\n");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn those_on_a_base_that_was_replaced_are_given_up(scratch: Scratch) {
    let images_dir = scratch.join("images");
    std::fs::create_dir(&images_dir).expect("a folder");
    for entry in images().read_dir().expect("the images").flatten() {
        std::fs::copy(entry.path(), images_dir.join(entry.file_name())).expect("a copy");
    }
    let settings = VmSettings { base_images_dir: images_dir.clone(), ..settings(&scratch) };
    let manager = warmed(settings, Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    let base = manager.base_image(Language::PYTHON).expect("a base image");
    let copy = scratch.join("copy");
    std::fs::copy(&base, &copy).expect("a copy");
    std::fs::rename(&copy, &base).expect("it is replaced");
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Resumed));
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn those_that_nobody_asks_for_are_given_up(scratch: Scratch) {
    // Its state is saved by then, and one is made in far less than its time.
    let manager = warmed(settings(&scratch), Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    manager.stop().await;
    let idle = VmSettings { warm_idle: Duration::from_secs(30), ..settings(&scratch) };
    let manager = warmed(idle, Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 0).await;
    eventually("its QEMU is gone", || children().is_empty()).await;
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn where_nobody_asks_none_is_made(scratch: Scratch) {
    let idle = VmSettings { warm_idle: Duration::ZERO, ..settings(&scratch) };
    let manager = warmed(idle, Language::PYTHON, 1).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(ready(&manager), 0);
    manager.destroy_vm(&vm).await;
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// Who asks comes before those that only wait.
#[apply(test)]
async fn one_that_waits_makes_room(scratch: Scratch) {
    let settings = VmSettings { max_concurrent_vms: 1, ..settings(&scratch) };
    let manager = warmed(settings, Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    let vm = create(&manager, Language::JAVASCRIPT).await;
    assert_eq!(ready(&manager), 0);
    assert_eq!(prints(&vm, "console.log('hello')").await, "hello\n");
    let refused = manager.create_vm(Language::PYTHON, "tenant", "task").await;
    assert!(matches!(refused, Err(VmError::TooMany { limit: 1 })), "{refused:?}");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// Also before the one that shall wait does.
#[apply(test)]
async fn one_that_is_being_made_makes_room(scratch: Scratch) {
    let settings = VmSettings { max_concurrent_vms: 1, ..settings(&scratch) };
    let manager = warmed(settings, Language::PYTHON, 1).await;
    eventually("one is being made", || !children().is_empty()).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_ne!(vm.start(), Some(Start::Warm));
    assert_eq!(prints(&vm, "print('hello')").await, "hello\n");
    manager.destroy_vm(&vm).await;
    // Its turn comes again.
    until_ready(&manager, Language::PYTHON, 1).await;
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// So that one a second is asked for of a machine that needs longer to make it.
#[apply(test)]
async fn as_many_are_made_at_once_as_there_are_processors(scratch: Scratch) {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(3);
    let begun = scratch.join("begun");
    std::fs::create_dir(&begun).expect("a folder");
    // None begins before all have been started.
    let body = format!(
        "[ \"$1\" = --version ] || >'{0}'/$$
         while [ \"$1\" != --version ] && [ $(ls '{0}' | wc -l) -lt {at_once} ]; do sleep 0.05; done
         exec qemu-system-x86_64 \"$@\"",
        begun.display()
    );
    let settings = VmSettings {
        qemu: script(&scratch.join("qemu"), &body),
        // Nor is another started in its place.
        resume: false,
        boot_timeout: Duration::from_secs(1000),
        max_concurrent_vms: 3,
        ..settings(&scratch)
    };
    let count = u32::try_from(at_once).expect("a few");
    let manager = warmed(settings, Language::PYTHON, count).await;
    until_ready(&manager, Language::PYTHON, at_once).await;
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn a_dropped_manager_leaves_none_waiting(scratch: Scratch) {
    let manager = warmed(settings(&scratch), Language::PYTHON, 1).await;
    until_ready(&manager, Language::PYTHON, 1).await;
    drop(manager);
    // A look at the images' files may be under way, and ends first.
    eventually("its pool is gone", || directories(&scratch).is_empty()).await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn what_nobody_wants_to_wait_does_not(scratch: Scratch) {
    let manager = VmManager::new(VmSettings { warm: BTreeMap::new(), ..settings(&scratch) });
    manager.start_for(Language::PYTHON).await.expect("the manager starts");
    assert!(children().is_empty());
    assert_eq!(manager.warm_stats(Language::PYTHON), overlay_pool::vm::WarmStats::default());
    manager.stop().await;
}
