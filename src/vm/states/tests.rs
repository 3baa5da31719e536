//! Saved states that are found, refused, replaced and removed.

use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rstest::rstest;
use serde_json::{Value, json};

use super::{BLOCK, Checksum, DEVICES, KEPT, RAM, SavedStates, name};
use crate::vm::DRAFT_PREFIX;
use crate::vm::hashes::Mark;

fn saved(states: &SavedStates, key: &Value, bytes: &[u8]) {
    let draft = states.begin().expect("a place");
    fs::write(draft.ram(), bytes).expect("RAM");
    fs::write(draft.devices(), bytes).expect("devices");
    states.finish(&draft, key.clone()).expect("saved");
}

#[rstest]
fn a_state_is_found_by_its_key_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let states = SavedStates::open(dir.path().join("states"), None).expect("a folder");
    saved(&states, &json!({ "memory": 128 }), b"state");
    assert!(states.find(&json!({ "memory": 256 })).is_none());
    let state = states.find(&json!({ "memory": 128 })).expect("found");
    // A state that got another's name is refused.
    let other = states.directory.join(name(&json!({ "memory": 256 })));
    fs::rename(state.path(), other).expect("renamed");
    assert!(states.find(&json!({ "memory": 256 })).is_none());
}

#[rstest]
#[case::first(0)]
#[case::last(3 * BLOCK - 1)]
#[case::in_zeros(BLOCK + 5)]
fn any_changed_byte_is_seen(#[case] at: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state");
    let mut bytes = [vec![1; BLOCK], vec![0; BLOCK], vec![2; BLOCK]].concat();
    fs::write(&path, &bytes).expect("a state");
    let before = Checksum::of(&path).expect("a checksum");
    bytes[at] ^= 0x10;
    fs::write(&path, &bytes).expect("a state");
    assert_ne!(Checksum::of(&path).expect("a checksum"), before);
}

#[rstest]
fn holes_and_zeros_count_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let (dense, sparse) = (dir.path().join("dense"), dir.path().join("sparse"));
    fs::write(&dense, [vec![0; 3 * BLOCK], vec![7; 10], vec![0; BLOCK]].concat()).expect("it");
    let mut file = File::create(&sparse).expect("a file");
    file.seek(SeekFrom::Start(3 * BLOCK as u64)).expect("a place");
    file.write_all(&[7; 10]).expect("bytes");
    file.set_len(4 * BLOCK as u64 + 10).expect("a length");
    assert_eq!(Checksum::of(&dense).expect("dense"), Checksum::of(&sparse).expect("sparse"));
}

#[rstest]
fn old_states_go() {
    let dir = tempfile::tempdir().expect("a folder");
    let states = SavedStates::open(dir.path().join("states"), None).expect("a folder");
    for number in 0..KEPT + 3 {
        saved(&states, &json!(number), b"state");
    }
    assert_eq!(states.directory.read_dir().expect("a folder").count(), KEPT);
    assert!(states.find(&json!(KEPT + 2)).is_some(), "the newest stays");
}

/// Damage is seen by the first look of a process; a file that changes is looked at again.
#[rstest]
#[case::ram(RAM)]
#[case::devices(DEVICES)]
fn what_changed_is_looked_at_again(#[case] file: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let states = SavedStates::open(dir.path().join("states"), None).expect("a folder");
    saved(&states, &json!(1), b"state");
    let state = states.find(&json!(1)).expect("found");
    assert!(states.is_sound(&state) && states.is_sound(&state));
    let path = state.path().join(file);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
    fs::write(&path, b"stale").expect("damage");
    assert!(!states.is_sound(&state));
}

#[rstest]
#[case::writable("", 0o777)]
#[case::writable_ram(RAM, 0o666)]
fn what_others_may_change_is_refused(#[case] file: &str, #[case] mode: u32) {
    let dir = tempfile::tempdir().expect("a folder");
    let states = SavedStates::open(dir.path().join("states"), None).expect("a folder");
    saved(&states, &json!(1), b"state");
    let state = states.find(&json!(1)).expect("found");
    fs::set_permissions(state.path().join(file), Permissions::from_mode(mode)).expect("a mode");
    assert!(states.find(&json!(1)).is_none());
    fs::set_permissions(&states.directory, Permissions::from_mode(0o777)).expect("a mode");
    assert!(SavedStates::open(states.directory, None).is_err());
}

#[rstest]
fn drafts_of_the_dead_go_and_those_of_the_living_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let states = SavedStates::open(dir.path().join("states"), None).expect("a folder");
    let living = states.begin().expect("a draft");
    let dead = states.directory.join(format!("{DRAFT_PREFIX}{:032x}", 1));
    fs::create_dir(&dead).expect("a folder");
    fs::write(dead.join(RAM), "half").expect("a file");
    saved(&states, &json!(1), b"state");
    assert!(!dead.exists());
    assert!(living.ram().exists());
}

/// What is no good is saved again under the same name.
#[rstest]
fn a_damaged_state_is_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let states = SavedStates::open(dir.path().join("states"), None).expect("a folder");
    saved(&states, &json!(1), b"state");
    let state = states.find(&json!(1)).expect("found");
    fs::set_permissions(state.ram(), Permissions::from_mode(0o600)).expect("a mode");
    fs::write(state.ram(), b"stale").expect("damage");
    assert!(!states.is_sound(&state));
    saved(&states, &json!(1), b"newer");
    let state = states.find(&json!(1)).expect("found");
    assert!(states.is_sound(&state));
    assert_eq!(fs::read(state.ram()).expect("RAM"), b"newer");
}

/// VMs may be coming to life on it.
#[rstest]
fn a_sound_state_is_not_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let states = SavedStates::open(dir.path().join("states"), None).expect("a folder");
    saved(&states, &json!(1), b"first");
    saved(&states, &json!(1), b"second");
    let state = states.find(&json!(1)).expect("found");
    assert!(states.is_sound(&state));
    assert_eq!(fs::read(state.ram()).expect("RAM"), b"first");
    assert_eq!(states.directory.read_dir().expect("a folder").count(), 1, "no draft is left");
}

#[rstest]
fn a_state_that_is_removed_is_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let states = SavedStates::open(dir.path().join("states"), None).expect("a folder");
    saved(&states, &json!(1), b"state");
    let state = states.find(&json!(1)).expect("found");
    state.remove();
    assert!(states.find(&json!(1)).is_none() && !state.path().exists());
}

/// The group of another user's QEMU may read the RAM, and write to it while it is saved; who has it
/// already needn't be let in again, which would have it looked at again.
#[rstest]
fn the_group_may_read_the_ram_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let group = rustix::process::getegid().as_raw();
    let states = SavedStates::open(dir.path().join("states"), Some(group)).expect("a folder");
    let mode = |path: &Path| path.metadata().expect("it is there").mode() & 0o7777;
    let draft = states.begin().expect("a place");
    assert_eq!((mode(&draft.ram()), mode(&draft.devices())), (0o660, 0o600));
    drop(draft);
    saved(&states, &json!(1), b"state");
    let state = states.find(&json!(1)).expect("found");
    assert_eq!((mode(&state.ram()), mode(&state.devices())), (0o440, 0o400));
    let mark = Mark::of(&state.ram()).expect("a mark");
    states.find(&json!(1)).expect("found again");
    assert_eq!(Mark::of(&state.ram()).expect("a mark"), mark);
    // Somebody else's doing, or a state of another server.
    fs::set_permissions(state.ram(), Permissions::from_mode(0o400)).expect("a mode");
    states.find(&json!(1)).expect("found");
    assert_eq!(mode(&state.ram()), 0o440);
}
