//! VMs are resumed from a saved state instead of booted.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay_pool::vm::{Language, Start, VmSettings};

use crate::harness::prelude::*;
use crate::harness::vms::{assert_no_vm_left, create, prints, settings, started};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

/// Nothing of what makes a machine one of its own is shared.
#[rstest]
#[test_attr(apply(case))]
async fn two_vms_of_one_state_are_two(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::Python).await;
    let create = || create(&manager, Language::Python);
    let (one, two) = tokio::join!(create(), create());
    assert_eq!((one.start(), two.start()), (Some(Start::Resumed), Some(Start::Resumed)));
    let code =
        "import os\nprint(os.urandom(32).hex())\nprint(open('/etc/machine-id').read().strip())
print(open('/proc/sys/kernel/random/boot_id').read().strip())\nprint(os.uname().nodename)
print(os.environ.get('PYTHONHASHSEED', hash('seed')))";
    let (one, two) = tokio::join!(prints(&one, code), prints(&two, code));
    let (one, two): (Vec<_>, Vec<_>) = (one.lines().collect(), two.lines().collect());
    assert_eq!((one.len(), two.len()), (5, 5), "{one:?} {two:?}");
    for (one, two) in one.iter().zip(&two) {
        assert_ne!(one, two);
    }
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[rstest]
#[test_attr(apply(case))]
async fn the_clock_is_right(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::Python).await;
    let vm = create(&manager, Language::Python).await;
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
#[rstest]
#[test_attr(apply(case))]
async fn a_bad_state_is_not_resumed(scratch: Scratch) {
    let states = scratch.join("states");
    let settings = VmSettings { states_dir: Some(states.clone()), ..settings(&scratch) };
    let manager = started(settings.clone(), Language::Python).await;
    let vm = create(&manager, Language::Python).await;
    assert_eq!(vm.start(), Some(Start::Resumed), "the first one saves a state");
    manager.destroy_vm(&vm).await;
    let state = only_entry(&states);
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("state")), 0o600);

    // One bit, in the middle of the guest's memory.
    let file = File::options().read(true).write(true).open(state.join("state")).expect("a state");
    let at = file.metadata().expect("its length").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
    let vm = create(&manager, Language::Python).await;
    assert_eq!(vm.start(), Some(Start::Booted), "a damaged state is not resumed");
    assert_eq!(prints(&vm, "print('hello from pool')").await, "hello from pool\n");
    assert!(!state.exists(), "it is removed");
    manager.destroy_vm(&vm).await;
    manager.stop().await;

    // It is saved again, for a machine with more memory: QEMU itself would take the other one.
    let settings = VmSettings { memory_mib: Some(160), ..settings };
    let manager = started(settings.clone(), Language::Python).await;
    let vm = create(&manager, Language::Python).await;
    assert_eq!(vm.start(), Some(Start::Resumed));
    manager.stop().await;
    let other = only_entry(&states);
    assert_ne!(other, state, "another key has another name");
    // Under the first one's name it is refused, and replaced.
    std::fs::rename(&other, &state).expect("renamed");
    let settings = VmSettings { memory_mib: None, ..settings };
    let manager = started(settings, Language::Python).await;
    let vm = create(&manager, Language::Python).await;
    assert_eq!(vm.start(), Some(Start::Resumed));
    let memory = "print(next(open('/proc/meminfo')).split()[1])";
    let kib: u64 = prints(&vm, memory).await.trim().parse().expect("a number");
    assert!(kib < 128 << 10, "{kib} KiB");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

fn only_entry(directory: &Path) -> PathBuf {
    let entries: Vec<_> = directory.read_dir().expect("a folder").flatten().collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].path()
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("a file").permissions().mode() & 0o7777
}
