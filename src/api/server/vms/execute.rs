//! `POST /v1/execute`: a program in a VM of its own.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::time::timeout;

use super::disk::disk;
use super::events::{self, Holder, Order};
use super::fleet::Vms;
use super::refusals::Executing;
use super::request::{Asked, ExecuteForm, FileIn, Input, program};
use crate::api::server::caller::Caller;
use crate::api::server::state::Shared;
use crate::api::wire::{Event, ExecuteRequest, Problem, RunRequest};
use crate::vm::Vm;

/// The permissions of files that go in.
const MODE: u32 = 0o644;

/// Runs a program in a VM of its own, which is destroyed afterwards.
///
/// The answer comes while the program runs, one JSON object a line: `begun`, what it writes as
/// `stdout` and `stderr`, the files that were asked for, and at last `end` or `failed`. A client
/// that closes its connection ends its program. As a form, the program comes with files, and with
/// input that may go on while it runs.
#[utoipa::path(
    post,
    path = "/v1/execute",
    tag = "virtual machines",
    request_body(
        content(
            (ExecuteRequest = "application/json"),
            (ExecuteForm = "multipart/form-data"),
        ),
    ),
    responses(
        (status = 200, description = "It runs; what becomes of it, an event a line.", body = Event,
         content_type = "application/x-ndjson"),
        Executing,
    )
)]
pub(super) async fn execute(
    State(shared): State<Shared>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let vms = shared.vms()?;
    let place = vms.tenants.admit(caller.peer)?;
    let asked = Asked::<ExecuteRequest>::read(request, vms.limits.upload, vms.patience).await?;
    let Asked { request, files, stdin } = asked;
    let (vm, request) = request.split();
    let language = vms.language(&vm.language)?;
    let (order, files) = order(request, files, stdin)?;
    let disk = disk(&shared, &caller, vm.disk, vm.virtual_size).await?;
    let lease = vms.create(language, caller.peer, place, disk).await?;
    if let Err(problem) = put_files(vms, lease.vm(), &files).await {
        lease.end().await;
        return Err(problem);
    }
    Ok(events::answer(Arc::clone(vms), Holder::Once(lease), order))
}

/// What is to be run, and the files that are put into the guest before.
pub(super) fn order(
    mut request: RunRequest,
    files: Vec<FileIn>,
    stdin: Option<multer::Field<'static>>,
) -> Result<(Order, Vec<FileIn>), Problem> {
    let program = program(&request)?;
    let input = Input::of(request.stdin.take(), stdin)?;
    Ok((Order { program, input, files: request.files }, files))
}

/// Puts files into the guest, which has one time for all of them.
pub(super) async fn put_files(vms: &Vms, vm: &Vm, files: &[FileIn]) -> Result<(), Problem> {
    let all = async {
        for FileIn { path, bytes } in files {
            vm.put_file(path, MODE, bytes).await?;
        }
        Ok(())
    };
    timeout(vms.time(), all).await.unwrap_or_else(|_| {
        let detail = format!("the files weren't written within {:?}; nothing was run", vms.time());
        Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", detail))
    })
}
