//! Whoever may write to guest images or saved states would decide what a VM runs.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::harness::cli;
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;

#[apply(test)]
#[case::writable_images("OVERLAY_POOL_IMAGES", false)]
#[case::writable_states("OVERLAY_POOL_STATES", false)]
#[needs(Root)]
#[case::images_of_another_user("OVERLAY_POOL_IMAGES", true)]
#[needs(Root)]
#[case::states_of_another_user("OVERLAY_POOL_STATES", true)]
fn a_directory_that_others_may_change_is_refused(
    scratch: Scratch,
    #[case] variable: &str,
    #[case] given_away: bool,
) {
    let shared = scratch.join("shared");
    std::fs::create_dir(&shared).expect("a folder");
    if given_away {
        chown(&shared, Some(SOMEBODY), None).expect("given away");
    } else {
        std::fs::set_permissions(&shared, Permissions::from_mode(0o777)).expect("a mode");
    }
    let mut command = cli::overlay_pool(&scratch);
    command.args(["exec", "python", "-c", "print(1)"]);
    command.env("OVERLAY_POOL_IMAGES", &*scratch).env(variable, &shared);
    let answer = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert_eq!(answer.status.code(), Some(125), "{said}");
    let why = if given_away {
        format!("shared: this directory belongs to another user (uid {SOMEBODY})")
    } else {
        "shared: another user may change this directory".to_owned()
    };
    assert!(said.contains(&why), "{said}");
}
