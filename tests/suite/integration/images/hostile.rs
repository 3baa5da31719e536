//! Registries and images that lie.

use std::process::Command;

use serde_json::json;

use crate::harness::cli::run;
use crate::harness::prelude::*;
use crate::harness::proxy::Liar;
use crate::harness::qcow2::Image;
use crate::harness::registry::{Registry, content, disk, images, sha256, store, stored};
use crate::harness::requirements::SOMEBODY;

const NEEDS: &[Need] = &[Need::Registry];

#[apply(test)]
fn bytes_with_another_digest_do_not_count(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 1);
    registry.put_disk("x", "1", &bytes);
    let mut other = bytes.clone();
    *other.last_mut().expect("bytes") ^= 1;
    std::fs::write(registry.blob(&bytes), &other).expect("a file");
    let refused = run(&mut images(&scratch, &["pull", &registry.image("x:1")]));
    assert_eq!(refused.code, Some(1), "{refused}");
    let (actual, expected) = (sha256(&other), sha256(&bytes));
    let said = format!("has the digest {actual} and not {expected}");
    assert!(refused.stderr.contains(&said), "{refused}");
    assert_eq!(content(&scratch), [""; 0]);
}

#[apply(test)]
fn a_manifest_with_another_digest_is_refused(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let digest = registry.put_disk("x", "1", &disk(1, 1));
    let manifest = format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "y".repeat(100));
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{manifest}", manifest.len());
    let liar = Liar::start(head, 0);
    let image = format!("{}/x@{digest}", liar.address);
    let refused = run(&mut images(&scratch, &["pull", &image]));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains(&format!("and not {digest}")), "{refused}");
}

/// What another user may replace after it was hashed isn't verified.
#[apply(test)]
#[needs(Root)]
#[case::the_store("")]
#[case::a_part_of_it("partial")]
fn a_store_of_another_user_is_refused(scratch: Scratch, #[case] theirs: &str) {
    let registry = Registry::start(&scratch);
    registry.put_disk("x", "1", &disk(1, 1));
    let theirs = store(&scratch).join(theirs);
    std::fs::create_dir_all(&theirs).expect("folders");
    std::os::unix::fs::chown(&theirs, Some(SOMEBODY), Some(SOMEBODY)).expect("it is another's");
    let refused = run(&mut images(&scratch, &["pull", &registry.image("x:1")]));
    assert_eq!(refused.code, Some(1), "{refused}");
    let path = theirs.to_str().expect("a plain path").trim_end_matches('/');
    let said = format!("this directory belongs to another user (uid {SOMEBODY})");
    assert!(refused.stderr.contains(path) && refused.stderr.contains(&said), "{refused}");
    assert_eq!(content(&scratch), [""; 0]);
}

#[apply(test)]
fn an_endless_manifest_is_not_read(scratch: Scratch) {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned();
    let liar = Liar::start(head, u64::MAX);
    let image = format!("{}/x:1", liar.address);
    let refused = run(&mut images(&scratch, &["pull", &image]));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("a manifest of more than 4194304 bytes"), "{refused}");
}

/// The client of the protocol would read all of it: then memory ends, and not the machine.
#[apply(test)]
fn an_endless_token_ends_the_pull_alone(scratch: Scratch) {
    let token = Liar::start("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(), u64::MAX);
    let head = format!(
        "HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm=\"http://{}/token\"\r\n\
         content-length: 0\r\n\r\n",
        token.address
    );
    let liar = Liar::start(head, 0);
    let refused = run(&mut images(&scratch, &["pull", &format!("{}/x:1", liar.address)]));
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(refused.stderr.contains("memory allocation"), "{refused}");
}

#[apply(test)]
#[case::too_long(-1, "it sends a blob of more than")]
#[case::too_short(1, "for a blob of")]
fn a_blob_of_another_length_is_refused(scratch: Scratch, #[case] off: i64, #[case] said: &str) {
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 1);
    let mut layer = registry.put_blob("x", "application/x-qemu-disk", &bytes);
    layer["size"] = json!(i64::try_from(bytes.len()).expect("a size") + off);
    registry.put_image("x", "1", &[layer]);
    let arguments = ["pull", "--retries", "0", &registry.image("x:1")];
    let refused = run(&mut images(&scratch, &arguments));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains(said), "{refused}");
    assert!(!stored(&scratch, &bytes).exists());
}

#[apply(test)]
fn what_is_larger_than_allowed_is_not_received(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    registry.put_disk("x", "1", &disk(1, 1));
    let arguments = ["pull", "--max-size", "1M", &registry.image("x:1")];
    let refused = run(&mut images(&scratch, &arguments));
    assert_eq!(refused.code, Some(3), "{refused}");
    assert!(refused.stderr.contains("--max-size"), "{refused}");
    assert_eq!(content(&scratch), [""; 0]);
}

/// A small layer that unpacks to a large disk, or to much beside one.
#[apply(test)]
#[case::a_large_disk("disk/x", "of 33554432 allowed")]
#[case::much_else("usr/x", "it unpacks to more than")]
fn what_unpacks_to_too_much_is_refused(scratch: Scratch, #[case] path: &str, #[case] said: &str) {
    let registry = Registry::start(&scratch);
    let folder = scratch.join("archive");
    let file = folder.join(path);
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    std::fs::File::create(&file).and_then(|file| file.set_len(200 << 20)).expect("a file");
    let first = path.split('/').next().expect("a name");
    let bomb = Command::new("tar").args(["-czf", "-", first]).current_dir(&folder).output();
    let bomb = bomb.expect("tar runs").stdout;
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layer = registry.put_blob("x", kind, &bomb);
    registry.put_image("x", "1", &[layer]);
    let arguments = ["pull", "--raw", "--max-size", "32M", &registry.image("x:1")];
    let refused = run(&mut images(&scratch, &arguments));
    assert_eq!(refused.code, Some(3), "{refused}");
    assert!(refused.stderr.contains(said), "{refused}");
    assert_eq!(content(&scratch), [""; 0]);
}

#[apply(test)]
fn what_can_t_be_a_base_image_does_not_count(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let backed = Image::new(1 << 20).backing(b"/etc/passwd").0.clone();
    let cut_off = Image::with_data(1 << 20).0[..300_000].to_vec();
    let page = b"<!doctype html><p>Please log in".to_vec();
    let bad = [(backed, "backing file is /etc/passwd"), (cut_off, "cut off"), (page, "a web page")];
    for (number, (bytes, why)) in bad.iter().enumerate() {
        let tag = number.to_string();
        registry.put_disk("x", &tag, bytes);
        let refused = run(&mut images(&scratch, &["pull", &registry.image(&format!("x:{tag}"))]));
        assert_eq!(refused.code, Some(3), "{refused}");
        assert!(refused.stderr.contains(why), "{refused}");
        assert_eq!(content(&scratch), [""; 0]);
        let path = scratch.join(&tag);
        std::fs::write(&path, bytes).expect("a file");
        let pushed = run(&mut images(&scratch, &["push", &tag, &registry.image("y:1")]));
        assert_eq!(pushed.code, Some(3), "it isn't pushed either: {pushed}");
    }
}

#[apply(test)]
fn what_is_no_image_is_named(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let junk = registry.put_blob("x", kind, &[b'x'; 2000]);
    registry.put_image("x", "junk", &[junk]);
    let zeros = registry.put_blob("x", kind, &[0; 2000]);
    registry.put_image("x", "empty", &[zeros]);
    let two = [b"one", b"two"].map(|bytes| registry.put_blob("x", "text/plain", bytes));
    registry.put_image("x", "two", &two);
    for (tag, why) in [
        ("junk", "it is damaged"),
        ("empty", "none of its layers has a file below /disk"),
        ("two", "it has 2 layers"),
    ] {
        let refused = run(&mut images(&scratch, &["pull", &registry.image(&format!("x:{tag}"))]));
        assert_eq!(refused.code, Some(3), "{refused}");
        assert!(refused.stderr.contains(why), "{refused}");
        assert_eq!(content(&scratch), [""; 0]);
    }
}
