//! `images build`: the guest images, built by the recipe that the program carries.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;

use overlay_pool::vm::VmSettings;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::super::exec::interrupted;
use super::super::exit::Exit;
use super::super::failure::{Failure, system};
use super::super::{Answer, arguments, block_on, text, trusted};
use super::{look, recipe};

const EXAMPLES: &str = "\
Kernel, Python and Node.js come from packages of Debian 13, which are downloaded. The host is Debian 12,
Ubuntu 24.04, or later, and has cpio, e2fsprogs, qemu-utils, xz-utils and zstd; no root and no compiler
is needed. If they were built by the same recipe already, nothing is done; those of an earlier one
stay, since disks may refer to them.

`exec` finds the images if they lie where they do by default; else name their directory with
OVERLAY_POOL_IMAGES. OVERLAY_POOL_DEBIAN_MIRROR names the mirror of the packages: by default the one that
apt uses, or else debootstrap's, if that is installed.

Examples:
  overlay-pool images build
  overlay-pool images build --dir /srv/guest-images";

/// Build the guest images of VMs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Build {
    /// Where they shall be: guest-images in `OVERLAY_POOL_DIR` or in the user's own place for pools.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Build {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let dir = self.dir.unwrap_or(arguments::vm_settings()?.built_images());
        // What is written there runs as root in each guest, and the recipe follows links.
        trusted::expect(trusted::parent(&dir), Exit::Failed)?;
        block_on(build(&dir))??;
        let mut answer = look(&dir, self.json)?;
        if !self.json {
            answer.text += &next(&dir, &arguments::vm_settings()?);
        }
        Ok(answer)
    }
}

/// Builds them unless they are there.
async fn build(dir: &Path) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| {
        let advice = system(&error);
        Failure::new(Exit::Failed, format!("{what}: {error}"), advice)
    };
    let scripts = tempfile::tempdir().map_err(|error| failed("temporary directory", error))?;
    recipe::write(scripts.path())
        .map_err(|error| failed(&scripts.path().display().to_string(), error))?;
    let mut interrupted = pin!(interrupted());
    // What it says of its steps is for standard error, as progress is everywhere.
    let mut child = Command::new("bash")
        .arg(scripts.path().join("provide.sh"))
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| failed("bash", error))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let status = tokio::select! {
        status = child.wait() => status,
        failure = &mut interrupted => {
            // Told to end, the recipe removes what it began.
            let _ = group.map(|group| kill_process_group(group, Signal::TERM));
            let _ = child.wait().await;
            return Err(failure);
        }
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let cause = format!("the guest images could not be built ({status})");
            Err(Failure::new(Exit::Failed, cause, "see what is said above"))
        }
        Err(error) => Err(failed("bash", error)),
    }
}

/// What to do with them.
fn next(dir: &Path, settings: &VmSettings) -> String {
    let finds = |path: &Path| path.canonicalize().ok();
    let example = "overlay-pool exec python -c \"print('hello from pool')\"";
    if finds(&settings.base_images_dir) == finds(dir) {
        format!("try {example}\n")
    } else {
        format!("try OVERLAY_POOL_IMAGES={} {example}\n", text::escaped_path(dir))
    }
}
