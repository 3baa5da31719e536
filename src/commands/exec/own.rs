//! Code in a VM of this process.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::vm::{
    End, Language, Outcome, Program, Start, Stream, Vm, VmDisk, VmError, VmManager, VmSettings,
};
use tokio::io::{AsyncRead, empty};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::done::{Facts, Outputs, unwritten};
use super::job::{Job, Stdin};
use crate::commands::exit::Exit;
use crate::commands::failure::Failure;
use crate::commands::trusted;

/// When a person who waits is told why.
const SOON: Duration = Duration::from_secs(2);
/// How much output may wait to be written, in parts.
const PARTS: usize = 16;

/// Runs it in a VM that is destroyed afterwards; its disk may be kept, or have been there before.
pub(super) async fn run(
    manager: &VmManager,
    language: Language,
    job: &Job,
    outputs: &mut Outputs,
    disk: VmDisk,
    keep: Option<&Path>,
) -> Result<Outcome, Failure> {
    let settings = manager.settings();
    for directory in [&settings.base_images_dir, &settings.states()] {
        trusted::expect(directory, Exit::NotRun)?;
    }
    manager.start_for(language).await?;
    let vm = create(manager, language, disk).await?;
    let outcome = pass_on(&vm, job, outputs).await?;
    outputs.tell(language.as_str(), &Facts::of(&vm), &outcome)?;
    let could_resume = manager.settings().resume && vm.disk_source().is_some();
    if could_resume && vm.start() == Some(Start::Booted) {
        // Where standard error is closed, there is nobody to tell.
        let _ = writeln!(
            io::stderr(),
            "overlay-pool: the VM booted, since no saved state could be resumed; --verbose says \
             why, --no-resume asks for it"
        );
    }
    if let Some(target) = keep {
        manager.keep_disk(&vm, target).await?;
    }
    manager.destroy_vm(&vm).await;
    Ok(outcome)
}

/// What a VM of this process is told, with room for one more overlay.
pub(super) fn settings(settings: VmSettings) -> VmSettings {
    VmSettings {
        max_concurrent_vms: 2, // one overlay is made ready
        warm: std::collections::BTreeMap::new(),
        ..settings
    }
}

/// Makes the VM; a person who waits for long is told why.
async fn create(manager: &VmManager, language: Language, disk: VmDisk) -> Result<Arc<Vm>, Failure> {
    let later = match disk {
        VmDisk::Own(_) => "as it does on a disk of yours",
        _ => "once it has, later ones resume its state",
    };
    let create = manager.create_vm_with(disk, language, "cli", "exec");
    tokio::pin!(create);
    let told = io::stderr().is_terminal();
    let created = tokio::select! {
        created = &mut create => created,
        () = sleep(SOON), if told => {
            let _ = writeln!(io::stderr(), "overlay-pool: the VM boots; {later}");
            create.await
        }
    };
    Ok(created?)
}

/// Takes what the program writes, as it comes.
async fn pass_on(vm: &Vm, job: &Job, outputs: &mut Outputs) -> Result<Outcome, Failure> {
    let (sender, mut parts) = mpsc::channel::<(Stream, Vec<u8>)>(PARTS);
    let take = async move {
        while let Some((stream, part)) = parts.recv().await {
            outputs.take(stream, &part)?;
        }
        io::Result::Ok(())
    };
    let input: Box<dyn AsyncRead + Unpin> =
        if job.reads { Box::new(Stdin::new()?) } else { Box::new(empty()) };
    let program = program(job);
    // Ends with the receiver, and so ends the program, when nothing can be written.
    let (outcome, taken) = tokio::join!(vm.run(&program, input, sender), take);
    match taken {
        Ok(()) => Ok(outcome?),
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Outcome { end: End::Signal(13), ..outcome? })
        }
        Err(error) => Err(unwritten(&error)),
    }
}

fn program(job: &Job) -> Program {
    let Job { code, name, arguments, environment, reads: _ } = job;
    let mut program = Program::new(code).name(name);
    for argument in arguments {
        program = program.argument(argument);
    }
    for (name, value) in environment {
        program = program.variable(name, value);
    }
    program
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        let advice = match &error {
            VmError::BootTimeout { .. } => "allow it more seconds with OVERLAY_POOL_BOOT_TIMEOUT",
            _ => "",
        };
        Self::new(Exit::NotRun, &error, advice)
    }
}
