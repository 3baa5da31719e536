//! `acquire`: one overlay from a server's pool.

use std::fs;

use crate::harness::cli::{answer, assert_answer, overlay_pool, run};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

#[apply(test)]
fn a2_a3_an_overlay_is_acquired(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let base = server::base(&scratch);
    let ask = |args: &[&str]| {
        let mut command = overlay_pool(&scratch);
        command.args(["acquire", "--socket"]).arg(server.socket()).arg(&base).args(args);
        run(&mut command)
    };
    // Relative paths are those of the caller's working directory (rule A13).
    assert_answer!(scratch, "acquire", ask(&["vms/a.qcow2"]));
    assert_answer!(scratch, "acquire_json", ask(&["vms/b.qcow2", "--size", "1G", "--json"]));
    assert!(scratch.join("vms/a.qcow2").is_file() && scratch.join("vms/b.qcow2").is_file());

    assert_answer!(scratch, "acquire_smaller", ask(&["vms/c.qcow2", "--size", "1k"]));
    assert_answer!(scratch, "acquire_as_raw", ask(&["vms/c.qcow2", "--raw"]));
    assert_answer!(scratch, "acquire_no_directory", ask(&["vms/none/c.qcow2"]));
    assert_answer!(scratch, "acquire_outside", ask(&["c.qcow2"]));
    assert!(!scratch.join("vms/none").exists() && !scratch.join("c.qcow2").exists());
    server.stop();
}

/// The server's words are HTTP's.
#[apply(test)]
fn an_undeclared_raw_image_is_answered_with_the_option(scratch: Scratch) {
    let images = scratch.join("images");
    fs::create_dir_all(&images).expect("a folder");
    fs::write(images.join("disk.img"), vec![0; 1 << 20]).expect("an image");
    let server = Server::start(&scratch, ["--images", "images", "--targets", "."]);
    let ask = |options: &[&str]| {
        let mut command = overlay_pool(&scratch);
        command.env("OVERLAY_POOL_SOCKET", server.socket());
        run(command.args(["acquire", "images/disk.img", "vm.qcow2"]).args(options))
    };
    let refused = ask(&[]);
    assert!(refused.stderr.ends_with("; if it is a raw image, add --raw\n"), "{refused}");
    assert_eq!((refused.code, ask(&["--raw"]).code), (Some(3), Some(0)), "{refused}");
    server.stop();
}

#[apply(test)]
fn a8_a_missing_base_is_a_bad_image(scratch: Scratch) {
    fs::create_dir_all(scratch.join("images")).expect("a folder");
    let server = Server::start(&scratch, ["--images", "images", "--targets", "."]);
    let mut command = overlay_pool(&scratch);
    command.env("OVERLAY_POOL_SOCKET", server.socket());
    command.args(["acquire", "images/missing.qcow2", "vm.qcow2"]);
    assert_answer!(scratch, "acquire_missing_base", run(&mut command));
    server.stop();
}

/// Whether a server runs or not.
#[apply(test)]
fn a1_l1_an_existing_target_comes_before_a_missing_server(scratch: Scratch) {
    fs::write(scratch.join("vm.qcow2"), "precious").expect("a file");
    std::os::unix::fs::symlink("nowhere", scratch.join("link.qcow2")).expect("a link");
    let ask = |target| answer(&scratch, ["acquire", "--socket", "no.sock", "base.qcow2", target]);
    assert_answer!(scratch, "acquire_existing_target", ask("vm.qcow2"));
    assert_eq!(ask("link.qcow2").code, Some(4));
    assert_answer!(scratch, "acquire_no_server", ask("other.qcow2"));
    assert_eq!(fs::read_to_string(scratch.join("vm.qcow2")).expect("it is there"), "precious");
}

#[apply(test)]
fn a_session_without_a_place_for_sockets_is_told_to_name_one(scratch: Scratch) {
    let asked = run(overlay_pool(&scratch).args(["acquire", "base.qcow2", "vm.qcow2"]));
    // Root has a place of the system's.
    if rustix::process::geteuid().is_root() {
        assert_eq!(asked.code, Some(6), "{asked}");
        assert!(asked.stderr.contains("/run/overlay-pool/pool.sock"), "{asked}");
    } else {
        assert!(asked.code == Some(2) && asked.stderr.contains("--socket"), "{asked}");
    }
}
