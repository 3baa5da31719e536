//! Base images whose names JSON has no text for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::server::{self, Server};

/// A8: a link that can be named leads to one; who acquires by it is told so, and the others see it
/// listed.
#[apply(test)]
fn a8_a_name_that_is_not_utf8_is_no_error(scratch: Scratch) {
    server::one_base(&scratch);
    let base = scratch.join(OsStr::from_bytes(b"no\xffutf8.qcow2"));
    let link = scratch.join("link.qcow2");
    Image::new(1 << 20).write(&base);
    symlink(&base, &link).expect("a link");
    let mut args: Vec<OsString> =
        server::one_base_args(&scratch).into_iter().map(Into::into).collect();
    args.extend(["--base".into(), link.clone().into()]);
    let server = Server::start(&scratch, args);
    let shown = json!(format!("{}/no\\xffutf8.qcow2", scratch.display()));

    let acquired = server.acquire(&link, &server::vms(&scratch).join("vm"));
    assert_eq!((acquired.status, &acquired.json()["base"]), (200, &shown));
    let added = server.post("/v1/bases", &json!({ "path": link }));
    assert_eq!((added.status, &added.json()["path"]), (201, &shown));
    let opened = server.post("/v1/open", &json!({ "base": link }));
    assert_eq!((opened.status, &opened.json()["base"]), (200, &shown));
    let stats = server.get("/v1/stats").json();
    assert!(stats["ready"].get(shown.as_str().unwrap_or_default()).is_some(), "{stats}");
    let bases = server.get("/v1/bases").json();
    assert_eq!(bases[1]["path"], shown, "{bases}");
    server.stop();
}
