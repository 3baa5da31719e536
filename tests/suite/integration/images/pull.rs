//! What is pulled is what was pushed, and nothing else counts.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};

use crate::harness::cli::{answer, overlay_pool, run};
use crate::harness::prelude::*;
use crate::harness::proxy::Liar;
use crate::harness::registry::{Registry, USER, content, disk, images, sha256, store, stored};

const NEEDS: &[Need] = &[Need::Registry];

/// An archive with one file in it, by GNU tar.
fn archive(scratch: &Path, path: &str, bytes: &[u8], option: &str) -> Vec<u8> {
    let folder = scratch.join("archive");
    let file = folder.join(path);
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    std::fs::write(&file, bytes).expect("a file");
    let first = path.split('/').next().expect("a name");
    let packed = Command::new("tar").args([option, "-", first]).current_dir(&folder).output();
    std::fs::remove_dir_all(&folder).expect("removed");
    packed.expect("tar runs").stdout
}

#[apply(test)]
fn what_is_pulled_is_what_was_pushed(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let bytes = disk(2, 1);
    std::fs::write(scratch.join("disk.qcow2"), &bytes).expect("a file");
    let image = registry.image("acme/python:3.13");

    let pushed = run(&mut images(&scratch, &["push", "disk.qcow2", &image]));
    assert_eq!((pushed.code, &*pushed.stderr), (Some(0), ""), "{pushed}");
    let pinned = pushed.stdout.trim();
    assert!(pinned.starts_with(&format!("{image}@sha256:")), "{pushed}");

    let pulled = run(&mut images(&scratch, &["pull", &image]));
    assert_eq!((pulled.code, &*pulled.stderr), (Some(0), ""), "{pulled}");
    let name = store(&scratch).join(format!("{}/acme/python/3.13.qcow2", registry.address()));
    assert!(pulled.stdout.starts_with(&format!("{}  {}  ", name.display(), sha256(&bytes))));
    let file = stored(&scratch, &bytes);
    assert_eq!(name.canonicalize().expect("a link"), file);
    assert_eq!(std::fs::read(&file).expect("the image"), bytes);
    assert_eq!(file.metadata().expect("the image").permissions().mode() & 0o7777, 0o444);

    // By its digest it is the same image, and isn't received again.
    let pulled = run(&mut images(&scratch, &["pull", "--json", pinned]));
    let facts: Value = serde_json::from_str(&pulled.stdout).expect("JSON");
    assert_eq!(facts["images"][0]["received"], 0, "{pulled}");
    assert_eq!(facts["images"][0]["path"], json!(file), "{pulled}");

    let created = answer(&scratch, ["create", name.to_str().expect("text"), "vm.qcow2"]);
    assert_eq!(created.code, Some(0), "{created}");
}

#[apply(test)]
#[case::tar("application/vnd.oci.image.layer.v1.tar", "-cf")]
#[case::gzip("application/vnd.docker.image.rootfs.diff.tar.gzip", "-czf")]
fn the_disk_of_a_container_disk_is_taken_out(
    scratch: Scratch,
    #[case] kind: &str,
    #[case] option: &str,
    #[values(false, true)] by_index: bool,
) {
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 2);
    let layer = archive(&scratch, "disk/fedora.qcow2", &bytes, option);
    let other = archive(&scratch, "etc/hostname", b"pool", option);
    let layers = [registry.put_blob("vm", kind, &layer), registry.put_blob("vm", kind, &other)];
    let digest = registry.put_image("vm", "1", &layers);
    if by_index {
        let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
            "size": 1, "platform": { "architecture": arch, "os": "linux" },
        }]});
        registry.put_manifest("vm", "1", kind, &index);
    }
    let image = registry.image("vm:1");
    let pulled = run(&mut images(&scratch, &["pull", &image]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert_eq!(std::fs::read(stored(&scratch, &bytes)).expect("the image"), bytes);
    let found = content(&scratch);
    assert_eq!(found.len(), 3, "the image, its name, and which layer it was in: {found:?}");

    // That it is there is known without the layer.
    let again = run(&mut images(&scratch, &["pull", &image]));
    assert!(again.stdout.contains("was there"), "{again}");
    assert_eq!(content(&scratch), found);
}

#[apply(test)]
fn a_raw_image_is_one_if_it_is_said_to_be(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    registry.put_disk("raw", "1", &[7; 4096]);
    let image = registry.image("raw:1");
    let refused = run(&mut images(&scratch, &["pull", &image]));
    assert_eq!(refused.code, Some(3), "{refused}");
    assert!(refused.stderr.contains("--raw"), "{refused}");
    assert_eq!(content(&scratch), [""; 0]);
    let pulled = run(&mut images(&scratch, &["pull", "--raw", &image]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert!(pulled.stdout.contains("/raw/1.raw "), "{pulled}");
}

#[apply(test)]
fn a_tag_that_moved_makes_a_new_image(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (one, two) = (disk(1, 1), disk(1, 2));
    let first = registry.put_disk("x", "1", &one);
    let image = registry.image("x:1");
    let name = store(&scratch).join(format!("{}/x/1.qcow2", registry.address()));
    for bytes in [&one, &two, &one] {
        registry.put_disk("x", "1", bytes);
        let pulled = run(&mut images(&scratch, &["pull", &image]));
        assert_eq!(pulled.code, Some(0), "{pulled}");
        assert_eq!(name.canonicalize().expect("a link"), stored(&scratch, bytes));
    }
    assert!(stored(&scratch, &two).exists(), "disks may refer to it");
    // A digest says which one, whatever the tag says.
    registry.put_disk("x", "1", &two);
    let pulled = run(&mut images(&scratch, &["pull", "--json", &format!("{image}@{first}")]));
    assert!(pulled.stdout.contains(&sha256(&one)), "{pulled}");
}

#[apply(test)]
fn what_isn_t_there_is_named_and_the_old_one_stays(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (one, two) = (disk(1, 1), disk(1, 2));
    registry.put_disk("x", "1", &one);
    let image = registry.image("x:1");
    assert_eq!(run(&mut images(&scratch, &["pull", &image])).code, Some(0));
    let before = content(&scratch);

    registry.put_disk("x", "1", &two);
    let path = format!("/v2/x/blobs/{}", sha256(&two));
    assert_eq!(registry.ask("DELETE", &path, "text/plain", b"").0, 202);
    let refused = run(&mut images(&scratch, &["pull", &image]));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("it has no such blob"), "{refused}");
    for name in ["x:2", "y:1"] {
        let refused = run(&mut images(&scratch, &["pull", &registry.image(name)]));
        assert!(refused.stderr.contains("it has no such image"), "{refused}");
    }
    let named = store(&scratch).join(format!("{}/x/1.qcow2", registry.address()));
    assert_eq!(named.canonicalize().expect("a link"), stored(&scratch, &one));
    let after: Vec<_> = content(&scratch);
    let but_partial: Vec<_> = after.iter().filter(|path| !path.starts_with("partial/")).collect();
    assert_eq!(but_partial, before.iter().collect::<Vec<_>>());
}

/// Of docker and of podman.
#[apply(test)]
#[case::docker(".docker/config.json", &[])]
#[case::podman(".config/containers/auth.json", &[])]
#[case::named("mine.json", &[("REGISTRY_AUTH_FILE", "mine.json")])]
fn credentials_are_those_of_the_usual_files(
    scratch: Scratch,
    #[case] file: &str,
    #[case] environment: &[(&str, &str)],
) {
    let registry = Registry::start_locked(&scratch);
    std::fs::write(scratch.join("disk.qcow2"), disk(1, 1)).expect("a file");
    let image = registry.image("x:1");
    let log_in = |user: &str| {
        let auths =
            json!({ "auths": { registry.address().to_string(): { "auth": base64(user) } } });
        let path = scratch.join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, auths.to_string()).expect("a file");
    };
    let ask = |arguments: &[&str]| {
        let mut command = images(&scratch, arguments);
        run(command.envs(environment.iter().copied()))
    };
    for user in [None, Some("user:wrong")] {
        user.map(log_in);
        for arguments in [&["pull", &image][..], &["push", "disk.qcow2", &image]] {
            let refused = ask(arguments);
            assert_eq!(refused.code, Some(1), "{refused}");
            assert!(refused.stderr.contains("access is refused"), "{refused}");
            assert!(
                !refused.stderr.contains("wrong"),
                "a password is nobody's business: {refused}"
            );
        }
    }
    log_in(USER);
    for arguments in [&["push", "disk.qcow2", &image][..], &["pull", &image]] {
        let done = ask(arguments);
        assert_eq!(done.code, Some(0), "{done}");
    }
}

fn base64(text: &str) -> String {
    let mut child = Command::new("base64")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("base64 runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("its answer");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[apply(test)]
fn a_mirror_is_asked_first_and_the_registry_if_that_fails(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 1);
    registry.put_disk("hub/x", "1", &bytes);
    registry.put_disk("x", "2", &bytes);
    let mirror = format!("nowhere.invalid={}", registry.image("hub"));
    let pulled = run(&mut images(&scratch, &["pull", "--mirror", &mirror, "nowhere.invalid/x:1"]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert!(store(&scratch).join("nowhere.invalid/x/1.qcow2").exists(), "{pulled}");

    let gone = Liar::start("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), 0);
    let mirror = format!("{}={}", registry.address(), gone.address);
    let image = registry.image("x:2");
    let pulled = run(&mut images(&scratch, &["pull", "--mirror", &mirror, &image]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert!(!gone.asked.lock().expect("a list").is_empty());
}

#[apply(test)]
fn proxies_are_those_of_the_environment(scratch: Scratch) {
    let proxy = Liar::start("HTTP/1.1 502 No\r\ncontent-length: 0\r\n\r\n".to_owned(), 0);
    let arguments = ["pull", "--retries", "0", "--plain-http", "r.invalid:80", "r.invalid:80/x:1"];
    let mut command = images(&scratch, &arguments);
    let refused = run(command.env("http_proxy", format!("http://{}", proxy.address)));
    assert_eq!(refused.code, Some(1), "{refused}");
    let asked = proxy.asked.lock().expect("a list");
    assert!(asked.iter().any(|line| line.starts_with("GET http://r.invalid/v2/")), "{asked:?}");
}

/// A store that nothing can be put into.
#[apply(test)]
fn what_is_no_store_is_named(scratch: Scratch) {
    mkfifoat(CWD, scratch.join("fifo"), Mode::RUSR).expect("a FIFO");
    let mut command = overlay_pool(&scratch);
    command.args(["images", "pull", "--store", "fifo/store", "localhost:1/x:1"]);
    let refused = run(&mut command);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("fifo/store"), "{refused}");
    let refused = run(&mut images(&scratch, &["pull", "python:3.13"]));
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(refused.stderr.contains("docker.io/library/python:3.13"), "{refused}");
}
