//! No overlay over a file that the server doesn't allow, whoever swaps what meanwhile.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use crate::harness::http::Response;
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::Server;

/// How many requests are made while files are swapped.
const REQUESTS: usize = 150;

/// A server of the images in `images`, where there is a folder `sub` with the image `disk.qcow2`.
fn served(scratch: &Path) -> (Server, PathBuf) {
    let sub = scratch.join("images/sub");
    for folder in [&sub, &scratch.join("vms")] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    Image::new(1 << 20).write(&sub.join("disk.qcow2"));
    Image::new(1 << 20).write(&scratch.join("images/own-base-x86_64.qcow2"));
    let text = |name: &str| scratch.join(name).to_str().expect("a plain path").to_owned();
    let args = ["--images", &text("images"), "--targets", &text("vms"), "--max-vms", "4"];
    (Server::start(scratch, args), sub)
}

/// What is answered on each route that takes a base image's path.
fn ask_each(server: &Server, scratch: &Path, base: &Path) -> [Response; 3] {
    let target = scratch.join("vms/vm.qcow2");
    let _ = std::fs::remove_file(&target);
    [
        server.post("/v1/acquire", &json!({ "base": base, "target": target })),
        server.post("/v1/open", &json!({ "base": base })),
        server.post("/v1/bases", &json!({ "path": base })),
    ]
}

/// Ends what goes on until then, also where the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// In one folder a file and a link that leads out change places all the time.
#[apply(test)]
fn a_swapped_link_leads_to_no_base_outside(scratch: Scratch) {
    let (server, sub) = served(&scratch);
    let secret = scratch.join("secret");
    std::fs::write(&secret, [0x5a; 1024]).expect("a file");
    let (disk, link) = (sub.join("disk.qcow2"), sub.join("link"));
    symlink(&secret, &link).expect("a link");
    let done = AtomicBool::new(false);
    let (mut made, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &disk, CWD, &link, RenameFlags::EXCHANGE).expect("a swap");
            }
        });
        let mut client = server.client();
        for number in 0..REQUESTS {
            let target = scratch.join("vms").join(number.to_string());
            let asked = [
                ("/v1/acquire", json!({ "base": disk, "format": "raw", "target": target })),
                ("/v1/bases", json!({ "path": disk, "format": "raw" })),
            ];
            for (path, request) in &asked {
                let answer = client.post(path, request).expect("an answer");
                match answer.status {
                    200 | 201 => made += 1,
                    _ => refused += 1,
                }
                assert!(!answer.body.contains(&*secret.to_string_lossy()), "{answer:?}");
            }
            if let Ok(bytes) = std::fs::read(&target) {
                let names = |name: &Path| {
                    let name = name.as_os_str().as_encoded_bytes();
                    bytes.windows(name.len()).any(|window| window == name)
                };
                assert!(!names(&secret) && (names(&disk) || names(&link)), "{number}");
            }
        }
    });
    println!("{made} made, {refused} refused");
    assert!(made > 0 && refused > 0, "{made} made, {refused} refused: nothing was swapped");
}

/// Where others may write, what a name leads to is theirs to say.
#[apply(test)]
#[case::writable(0o777)]
#[case::of_the_group(0o775)]
fn a_base_where_others_may_write_is_refused(scratch: Scratch, #[case] mode: u32) {
    let (server, sub) = served(&scratch);
    let deep = sub.join("deep");
    std::fs::create_dir(&deep).expect("a folder");
    Image::new(1 << 20).write(&deep.join("disk.qcow2"));
    for base in [sub.join("disk.qcow2"), deep.join("disk.qcow2")] {
        for (answer, status) in ask_each(&server, &scratch, &base).iter().zip([200, 200, 201]) {
            assert_eq!(answer.status, status, "{answer:?}");
        }
    }
    std::fs::set_permissions(&sub, Permissions::from_mode(mode)).expect("a mode");
    for base in [sub.join("disk.qcow2"), deep.join("disk.qcow2")] {
        for answer in ask_each(&server, &scratch, &base) {
            assert_eq!(answer.problem(403), "forbidden");
            let detail = answer.json()["detail"].as_str().expect("a text").to_owned();
            assert!(detail.contains(sub.to_str().expect("a plain path")), "{detail}");
            assert!(detail.contains("others may write"), "{detail}");
        }
    }
}

#[apply(test)]
#[needs(Root)]
fn a_base_in_another_users_directory_is_refused(scratch: Scratch) {
    let (server, sub) = served(&scratch);
    chown(&sub, Some(SOMEBODY), None).expect("given away");
    for answer in ask_each(&server, &scratch, &sub.join("disk.qcow2")) {
        assert_eq!(answer.problem(403), "forbidden");
    }
}

/// In a directory like /tmp each may rename only files of their own.
#[apply(test)]
#[needs(Root)]
fn a_sticky_directory_holds_bases_of_trusted_users_alone(scratch: Scratch) {
    let (server, sub) = served(&scratch);
    std::fs::set_permissions(&sub, Permissions::from_mode(0o1777)).expect("a mode");
    let base = sub.join("disk.qcow2");
    assert_eq!(ask_each(&server, &scratch, &base).map(|answer| answer.status), [200, 200, 201]);
    chown(&base, Some(SOMEBODY), None).expect("given away");
    for answer in ask_each(&server, &scratch, &base) {
        assert_eq!(answer.problem(403), "forbidden");
    }
}

/// What is discovered or named by the administrator is no exception.
#[apply(test)]
fn none_is_kept_ready_where_others_may_write(scratch: Scratch) {
    let shared = scratch.join("shared");
    for folder in [&shared, &scratch.join("vms")] {
        std::fs::create_dir(folder).expect("a folder");
    }
    for name in ["a-base-b.qcow2", "named.qcow2"] {
        Image::new(1 << 20).write(&shared.join(name));
    }
    symlink(shared.join("named.qcow2"), scratch.join("link.qcow2")).expect("a link");
    std::fs::set_permissions(&shared, Permissions::from_mode(0o777)).expect("a mode");
    let text = |name: &str| scratch.join(name).to_str().expect("a plain path").to_owned();
    let args = [
        "--images",
        &text("shared"),
        "--base",
        &text("link.qcow2"),
        "--targets",
        &text("vms"),
        "--max-vms",
        "4",
    ];
    let server = Server::start(&scratch, args);
    assert_eq!(server.get("/v1/bases").json(), json!([]));
    assert!(server.log().contains("others may write"), "{}", server.log());
    for name in ["shared/a-base-b.qcow2", "shared/named.qcow2", "link.qcow2"] {
        for answer in ask_each(&server, &scratch, &scratch.join(name)) {
            assert_eq!(answer.problem(403), "forbidden", "{name}");
        }
    }
}
