//! VMs are resumed from a saved state instead of booted.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay_pool::vm::{Language, Start, VmSettings, VmState};

use crate::harness::fake_tool::script;
use crate::harness::prelude::*;
use crate::harness::vms::{assert_no_vm_left, create, images, prints, settings, started};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

#[apply(test)]
async fn the_clock_is_right(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
    let before = now();
    let seconds = prints(&vm, "import time\nprint(time.time())").await;
    let inside = Duration::from_secs_f64(seconds.trim().parse().expect("a number"));
    // A guest's clock runs by itself between renewing and asking.
    let slack = Duration::from_secs(2);
    assert!(before < inside + slack && inside < now() + slack, "{before:?} {inside:?}");
    manager.stop().await;
}

/// A state that is damaged, and one that was saved for another key.
#[apply(test)]
async fn a_bad_state_is_not_resumed(scratch: Scratch) {
    let states = scratch.join("states");
    let settings = VmSettings { states_dir: Some(states.clone()), ..settings(&scratch) };
    let manager = started(settings.clone(), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Resumed), "the first one saves a state");
    manager.destroy_vm(&vm).await;
    let state = only_entry(&states);
    assert_eq!(mode(&state), 0o700);
    assert_eq!(["ram", "devices", "state.json"].map(|file| mode(&state.join(file))), [0o400; 3]);

    // One bit, in the middle of the guest's memory.
    let ram = state.join("ram");
    std::fs::set_permissions(&ram, Permissions::from_mode(0o600)).expect("a mode");
    let file = File::options().read(true).write(true).open(ram).expect("a state");
    let at = file.metadata().expect("its length").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Booted), "a damaged state is not resumed");
    assert_eq!(prints(&vm, "print('hello from pool')").await, "hello from pool\n");
    assert!(!state.exists(), "it is removed");
    manager.destroy_vm(&vm).await;
    manager.stop().await;

    // It is saved again, for a machine with more memory: QEMU itself would take the other one.
    let settings = VmSettings { memory_mib: Some(160), ..settings };
    let manager = started(settings.clone(), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Resumed));
    manager.stop().await;
    let other = only_entry(&states);
    assert_ne!(other, state, "another key has another name");
    // Under the first one's name it is refused, and replaced.
    assert!(!state.exists());
    std::fs::rename(&other, &state).expect("renamed");
    let settings = VmSettings { memory_mib: None, ..settings };
    let manager = started(settings, Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Resumed));
    let memory = "print(next(open('/proc/meminfo')).split()[1])";
    let kib: u64 = prints(&vm, memory).await.trim().parse().expect("a number");
    assert!(kib < 128 << 10, "{kib} KiB");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// A base image that is replaced in place looks the same but for its change time.
#[apply(test)]
async fn a_state_of_another_content_is_not_resumed(scratch: Scratch) {
    let images_dir = scratch.join("images");
    std::fs::create_dir(&images_dir).expect("a folder");
    for entry in images().read_dir().expect("the images").flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("python") {
            std::fs::copy(entry.path(), images_dir.join(name)).expect("a copy");
        } else {
            std::os::unix::fs::symlink(entry.path(), images_dir.join(name)).expect("a link");
        }
    }
    let states = scratch.join("states");
    let settings = VmSettings {
        states_dir: Some(states.clone()),
        base_images_dir: images_dir,
        ..settings(&scratch)
    };
    let manager = started(settings.clone(), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let base = manager.base_image(Language::PYTHON).expect("a base image");
    manager.stop().await;
    assert_eq!(vm.state(), VmState::Destroyed);
    let first = only_entry(&states);

    // A byte of the file system's label, in a cluster that isn't compressed or not: any will do.
    let before = base.metadata().expect("a file");
    let file = File::options().read(true).write(true).open(&base).expect("the base image");
    let at = before.len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
    file.set_modified(before.modified().expect("a time")).expect("the same time");
    let manager = started(settings, Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Resumed));
    manager.stop().await;
    let states: Vec<_> = states.read_dir().expect("a folder").flatten().collect();
    let others = states.iter().filter(|entry| entry.path().is_dir() && entry.path() != first);
    assert_eq!(others.count(), 1, "another state was saved: {states:?}");
}

/// That one could not be saved is tried again later: where there was no room, there may be some.
#[apply(test)]
async fn a_state_is_saved_once_it_can_be(scratch: Scratch) {
    let (states, away) = (scratch.join("states"), scratch.join("away"));
    let settings = VmSettings { states_dir: Some(states.clone()), ..settings(&scratch) };
    let manager = started(settings, Language::PYTHON).await;
    std::fs::rename(&states, &away).expect("it is moved away");
    std::fs::write(&states, "").expect("a file in its place");
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Booted));
    manager.destroy_vm(&vm).await;
    std::fs::remove_file(&states).expect("it is removed");
    std::fs::rename(&away, &states).expect("it is back");
    loop {
        let vm = create(&manager, Language::PYTHON).await;
        manager.destroy_vm(&vm).await;
        if vm.start() == Some(Start::Resumed) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// On a loaded host it may take too long to resume one that is sound.
#[apply(test)]
async fn a_state_that_is_not_resumed_in_time_stays(scratch: Scratch) {
    let (states, hangs) = (scratch.join("states"), scratch.join("hangs"));
    let body = format!(
        "case \"$*\" in *-incoming*) [ ! -e '{}' ] || exec sleep 1000;; esac
         exec qemu-system-x86_64 \"$@\"",
        hangs.display()
    );
    let settings = VmSettings {
        qemu: script(&scratch.join("qemu"), &body),
        states_dir: Some(states.clone()),
        ..settings(&scratch)
    };
    let manager = started(settings, Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Resumed));
    manager.destroy_vm(&vm).await;
    let state = only_entry(&states);
    std::fs::write(&hangs, "").expect("a file");
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Booted));
    assert_eq!(only_entry(&states), state);
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

fn only_entry(directory: &Path) -> PathBuf {
    let entries = directory.read_dir().expect("a folder").flatten();
    // Beside the list of hashes.
    let entries: Vec<_> = entries.filter(|entry| entry.path().is_dir()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].path()
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("a file").permissions().mode() & 0o7777
}
