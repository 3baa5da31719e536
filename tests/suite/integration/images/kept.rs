//! What is in the store is listed, and leaves it only if nothing uses it.

use std::fs::{File, FileTimes};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::cli::{answer, overlay_pool, run};
use crate::harness::prelude::*;
use crate::harness::registry::{Registry, content, disk, images, sha256, store, stored};

const NEEDS: &[Need] = &[Need::Registry];

/// A registry, and images of it that were pulled, of which the first was used longest ago.
fn pulled(scratch: &Scratch, count: u8) -> (Registry, Vec<Vec<u8>>) {
    let registry = Registry::start(scratch);
    let disks: Vec<_> = (0..count).map(|seed| disk(1, seed)).collect();
    for (seed, bytes) in disks.iter().enumerate() {
        let tag = seed.to_string();
        registry.put_disk("x", &tag, bytes);
        let pulled = run(&mut images(scratch, &["pull", &registry.image(&format!("x:{tag}"))]));
        assert_eq!(pulled.code, Some(0), "{pulled}");
        let age = Duration::from_secs(1000 - seed as u64);
        let then = SystemTime::now() - age;
        let times = FileTimes::new().set_accessed(then).set_modified(then);
        let file = File::open(stored(scratch, bytes)).expect("the image");
        file.set_times(times).expect("times");
        let link = store(scratch).join(format!("{}/x/{tag}.qcow2", registry.address()));
        let seconds =
            format!("@{}", then.duration_since(SystemTime::UNIX_EPOCH).expect("it").as_secs());
        let touched =
            std::process::Command::new("touch").args(["-h", "-d", &seconds]).arg(link).status();
        assert!(touched.is_ok_and(|status| status.success()));
    }
    (registry, disks)
}

fn removed(scratch: &Scratch, arguments: &[&str]) -> Vec<(String, String)> {
    let all = [&["prune", "--json"], arguments].concat();
    let pruned = run(&mut images(scratch, &all));
    assert_eq!(pruned.code, Some(0), "{pruned}");
    let facts: Value = serde_json::from_str(&pruned.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let removed = facts["removed"].as_array().expect("a list").iter();
    removed.map(|one| (text(&one["digest"]), text(&one["reason"]))).collect()
}

/// Who only looks for images makes no place for them.
#[apply(test)]
fn a_store_that_is_not_there_is_not_made_by_a_look(scratch: Scratch) {
    let listed = run(&mut images(&scratch, &["ls", "--json"]));
    assert_eq!(listed.code, Some(0), "{listed}");
    let facts: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(facts["base_images"], json!([]), "{listed}");
    assert!(!store(&scratch).exists(), "{listed}");
}

#[apply(test)]
fn both_kinds_of_images_are_listed(scratch: Scratch) {
    let (registry, disks) = pulled(&scratch, 1);
    let guests = scratch.join("guests");
    std::fs::create_dir(&guests).expect("a folder");
    let manifest =
        json!({ "recipe": "r", "arch": "a", "files": { "vmlinuz": { "size": 5, "sha256": "" } } });
    std::fs::write(guests.join("manifest.json"), manifest.to_string()).expect("a manifest");
    registry.put_disk("x", "0", &disk(1, 9));
    assert_eq!(run(&mut images(&scratch, &["pull", &registry.image("x:0")])).code, Some(0));

    let listed = run(&mut images(&scratch, &["ls", "--guest-images", "guests"]));
    assert_eq!(listed.code, Some(0), "{listed}");
    let (of_base, of_guests) = listed.stdout.split_once("guest images in").expect("both");
    assert!(of_base.contains(&format!("{}  (no name)", sha256(&disks[0]))), "{listed}");
    let named = format!("{}  {}", sha256(&disk(1, 9)), registry.image("x:0"));
    assert!(of_base.contains(&named), "{listed}");
    assert!(of_guests.contains("vmlinuz") && !of_base.contains("vmlinuz"), "{listed}");

    let listed = run(&mut images(&scratch, &["ls", "--guest-images", "guests", "--json"]));
    let facts: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(facts["base_images"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(facts["guest_images"], json!([{ "name": "vmlinuz", "size": 5 }]), "{listed}");

    // And guest images are none of prune's business.
    assert_eq!(removed(&scratch, &["--max-size", "0"]).len(), 2);
    assert!(guests.join("manifest.json").exists());
}

#[apply(test)]
fn only_what_has_no_name_goes_by_itself(scratch: Scratch) {
    let (registry, disks) = pulled(&scratch, 2);
    assert_eq!(removed(&scratch, &[]), []);
    let new = disk(1, 7);
    registry.put_disk("x", "0", &new);
    assert_eq!(run(&mut images(&scratch, &["pull", &registry.image("x:0")])).code, Some(0));
    let unnamed = [(sha256(&disks[0]), "unnamed".to_owned())];
    assert_eq!(removed(&scratch, &["--dry-run"]), unnamed);
    assert!(stored(&scratch, &disks[0]).exists(), "it was only asked");
    assert_eq!(removed(&scratch, &[]), unnamed);
    assert!(!stored(&scratch, &disks[0]).exists());
    assert!(stored(&scratch, &new).exists() && stored(&scratch, &disks[1]).exists());
    assert_eq!(content(&scratch).len(), 4, "{:?}", content(&scratch));
}

#[apply(test)]
fn over_the_limit_the_least_used_goes_first(scratch: Scratch) {
    let (registry, disks) = pulled(&scratch, 3);
    // Named again, it was used just now.
    assert_eq!(run(&mut images(&scratch, &["pull", &registry.image("x:0")])).code, Some(0));
    let size = disks[0].len() as u64;
    let two = (2 * size + size / 2).to_string();
    assert_eq!(
        removed(&scratch, &["--max-size", &two]),
        [(sha256(&disks[1]), "unused".to_owned())]
    );
    assert_eq!(removed(&scratch, &["--max-size", &two]), []);
    let one = (size + size / 2).to_string();
    assert_eq!(
        removed(&scratch, &["--max-size", &one]),
        [(sha256(&disks[2]), "unused".to_owned())]
    );
    let listed = run(&mut images(&scratch, &["ls", "--json"]));
    let facts: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(facts["base_images"][0]["names"], json!([registry.image("x:0")]), "{listed}");
    assert!(!store(&scratch).join(format!("{}/x/1.qcow2", registry.address())).is_symlink());
}

#[apply(test)]
#[case::in_the_place_of_pools("pool/vm.qcow2", &[])]
#[case::below_targets("run/17/vm.qcow2", &["--targets", "run"])]
fn what_a_disk_refers_to_stays(scratch: Scratch, #[case] target: &str, #[case] targets: &[&str]) {
    let (registry, disks) = pulled(&scratch, 2);
    let path: PathBuf = scratch.join(target);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let base = store(&scratch).join(format!("{}/x/0.qcow2", registry.address()));
    let created = answer(&scratch, ["create", base.to_str().expect("text"), target]);
    assert_eq!(created.code, Some(0), "{created}");
    let all = [&["--max-size", "0"], targets].concat();
    assert_eq!(removed(&scratch, &all), [(sha256(&disks[1]), "unused".to_owned())]);
    assert!(base.exists());
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(removed(&scratch, &all).len(), 1);
}

/// Who can't tell what is in use removes nothing.
#[apply(test)]
fn nothing_goes_if_a_disk_can_t_be_read(scratch: Scratch) {
    let (_registry, _disks) = pulled(&scratch, 1);
    std::fs::create_dir_all(scratch.join("pool")).expect("a folder");
    std::os::unix::fs::symlink("loop", scratch.join("loop")).expect("a link");
    let mut command = overlay_pool(&scratch);
    command.args(["images", "prune", "--max-size", "0", "--targets", "loop"]);
    let refused = run(command.env("OVERLAY_POOL_STORE", store(&scratch)));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert_eq!(content(&scratch).len(), 2);
}
