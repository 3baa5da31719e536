//! Rule A10: a base image that is replaced by a rename at any moment of an acquire is the old one or
//! the new one, and never an error.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use overlay_pool::creator::CreatorKind;
use serde_json::json;

use crate::harness::pools::{config, started};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::server::{self, Server};

/// How often it is acquired, and replaced at another moment each time.
const ACQUIRES: usize = 1_000;
/// After so many steps at most the base is replaced, once an acquire has begun.
const STEPS: usize = 40_000;

/// A base image that is replaced once for each acquire that begins, until this is dropped.
struct Replaced {
    begun: Arc<AtomicUsize>,
    replacing: Option<JoinHandle<()>>,
}

impl Replaced {
    fn all_the_time(base: &Path) -> Self {
        let (base, new) = (base.to_owned(), base.with_extension("new"));
        let begun = Arc::<AtomicUsize>::default();
        let told = Arc::clone(&begun);
        let replace = move || {
            let mut seen = 0;
            for replaced in 0.. {
                Image::new(1 << 20).write(&new);
                // Never for an acquire that is over: one would meet all of those at once.
                while begun.load(Ordering::Relaxed) == seen {
                    thread::yield_now();
                }
                seen = begun.load(Ordering::Relaxed);
                if seen == usize::MAX {
                    return;
                }
                for _ in 0..replaced * 997 % STEPS {
                    std::hint::spin_loop();
                }
                std::fs::rename(&new, &base).expect("replaced");
            }
        };
        Self { begun: told, replacing: Some(thread::spawn(replace)) }
    }

    fn an_acquire_begins(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        self.begun.store(usize::MAX, Ordering::Relaxed);
        if let Some(replacing) = self.replacing.take() {
            let _ = replacing.join();
        }
    }
}

#[apply(test)]
async fn a10_the_pool_finds_the_old_base_or_the_new_one(
    #[from(scratch_in_memory)] scratch: Scratch,
) {
    let (base, target) = (scratch.join("base.qcow2"), scratch.join("vm.qcow2"));
    Image::new(1 << 20).write(&base);
    let pool = started(config(CreatorKind::Native, &scratch, 2), &base).await;
    let replaced = Replaced::all_the_time(&base);
    let mut failed = Vec::new();
    for _ in 0..ACQUIRES {
        replaced.an_acquire_begins();
        match pool.acquire(&base, &target).await {
            Ok(_) => std::fs::remove_file(&target).expect("removed"),
            Err(error) => failed.push(error.to_string()),
        }
    }
    assert!(failed.is_empty(), "{} of {ACQUIRES} failed: {}", failed.len(), failed[0]);
}

/// A base that the server was told of, and one that it finds below its directory of images.
#[apply(test)]
fn a10_the_server_finds_the_old_base_or_the_new_one(
    #[from(scratch_in_memory)] scratch: Scratch,
    #[values("--base", "--images")] told: &str,
) {
    server::one_base(&scratch);
    let images = scratch.join("images");
    std::fs::create_dir_all(&images).expect("a folder");
    let base = images.join("disk.qcow2");
    Image::new(1 << 20).write(&base);
    let named = if told == "--base" { &base } else { &images };
    let mut args: Vec<OsString> =
        server::one_base_args(&scratch).into_iter().map(Into::into).collect();
    args.extend([told.into(), named.into()]);
    let server = Server::start(&scratch, args);
    let target = server::vms(&scratch).join("vm");
    let mut client = server.client();
    let replaced = Replaced::all_the_time(&base);
    let mut failed = Vec::new();
    for _ in 0..ACQUIRES {
        replaced.an_acquire_begins();
        let request = json!({ "base": base, "target": target });
        let answer = client.post("/v1/acquire", &request).expect("an answer");
        match answer.status {
            200 => std::fs::remove_file(&target).expect("removed"),
            _ => failed.push(answer.body),
        }
    }
    assert!(failed.is_empty(), "{} of {ACQUIRES} failed: {}", failed.len(), failed[0]);
    drop(replaced);
    server.stop();
}
