//! What VMs need besides QEMU: guest images, and what is saved of booted guests.

use std::fs;
use std::path::Path;

use indicatif::BinaryBytes;
use overlay_pool::vm::{Manifest, Measure, VmSettings, containment};
use rustix::io::Errno;

use super::super::arguments::pool_dir;
use super::Finding;

const IMAGES: &str = "guest images";
const STATES: &str = "saved states";
const EXEC: &str = "exec";

pub(super) fn look() -> Vec<Finding> {
    let settings = match VmSettings::from_env_in(pool_dir()) {
        Ok(settings) => settings,
        Err(error) => return vec![Finding::bad(EXEC, error, "or unset it")],
    };
    let directory = &settings.base_images_dir;
    let shown = directory.display();
    let manifest = Manifest::read(directory);
    let images = match &manifest {
        Ok(manifest) => Finding {
            details: format!("recipe {}; overlay-pool images verifies them", manifest.recipe),
            ..Finding::ok(IMAGES, format!("{shown}: {} files", manifest.files.len()))
        },
        Err(error) => Finding {
            details: error.to_string(),
            ..Finding::note(
                IMAGES,
                format!("none in {shown}"),
                "build them with overlay-pool images build, or name their directory with \
                 OVERLAY_POOL_IMAGES",
            )
        },
    };
    let accelerator = settings.accelerator.resolve();
    let exec = match (manifest, accelerator) {
        (Err(_), _) => Finding::note(EXEC, "no guest images", "see the line about them"),
        (Ok(_), Err(error)) => Finding {
            details: error.to_string(),
            ..Finding::note(
                EXEC,
                "nothing to run guests on",
                "see the line about kvm, or try exec --accel tcg",
            )
        },
        (Ok(_), Ok(accelerator)) => Finding::ok(EXEC, format!("can run code, on {accelerator}")),
    };
    let mut findings = vec![images, states(&settings.states()), exec];
    match containment(&settings) {
        Ok(measures) => findings.extend(measures.into_iter().map(contained)),
        Err(error) => findings.push(Finding::bad(EXEC, error, "")),
    }
    findings
}

/// What contains the VMs of a program that is started as this one was.
fn contained(measure: Measure) -> Finding {
    let Measure { what, in_force, found, advice, .. } = measure;
    if in_force { Finding::ok(what, found) } else { Finding::note(what, found, advice) }
}

fn states(directory: &Path) -> Finding {
    let shown = directory.display();
    match size(directory) {
        Ok((0, _)) => Finding::ok(STATES, format!("{shown}: none")),
        Ok((count, bytes)) => {
            Finding::ok(STATES, format!("{shown}: {count}, {}", BinaryBytes(bytes)))
        }
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
            Finding::ok(STATES, format!("{shown}: none"))
        }
        Err(error) => Finding::note(STATES, format!("{shown}: {error}"), "let this user read it"),
    }
}

/// How many states there are, and the bytes on disk of all.
fn size(directory: &Path) -> std::io::Result<(usize, u64)> {
    use std::os::unix::fs::MetadataExt;

    let (mut count, mut blocks) = (0, 0);
    for state in fs::read_dir(directory)? {
        let state = state?;
        if !state.file_type()?.is_dir() {
            continue;
        }
        count += 1;
        for file in fs::read_dir(state.path())? {
            blocks += file?.metadata()?.blocks();
        }
    }
    Ok((count, blocks * 512))
}
