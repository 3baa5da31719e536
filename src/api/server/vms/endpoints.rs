//! `/v1/vms`: VMs that their users keep.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::disk::disk;
use super::events::{self, Holder, start};
use super::execute::{order, put_files};
use super::fleet::Vms;
use super::refusals::{Creating, Keeping, Looking, Running};
use super::request::{Asked, RunForm, period};
use super::sessions::Session;
use crate::api::server::caller::Caller;
use crate::api::server::extract::{Body, InPath};
use crate::api::server::peers::Peer;
use crate::api::server::state::Shared;
use crate::api::wire::{Event, Problem, RunRequest, VmInfo, VmRequest};

/// Lists the VMs that the client's user keeps; for root and the server's own user, those of all.
#[utoipa::path(
    get,
    path = "/v1/vms",
    operation_id = "list_vms",
    tag = "virtual machines",
    responses((status = 200, description = "They are these.", body = Vec<VmInfo>), Looking)
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Caller { peer, .. }: Caller,
) -> Result<Json<Vec<VmInfo>>, Problem> {
    let sessions = shared.vms()?.sessions.list(peer);
    Ok(Json(sessions.iter().map(|session| info(session)).collect()))
}

/// Makes a VM that its user keeps, for one program after the other.
///
/// It is destroyed when that is asked for, when no program has run for as long as it may be idle,
/// or when the server ends.
#[utoipa::path(
    post,
    path = "/v1/vms",
    operation_id = "create_vm",
    tag = "virtual machines",
    request_body = VmRequest,
    responses(
        (status = 201, description = "It is there.", body = VmInfo,
         headers(("location" = String, description = "Where it is looked at."))),
        Creating,
    )
)]
pub(super) async fn create(
    State(shared): State<Shared>,
    caller: Caller,
    Body(VmRequest { language, idle_seconds, disk: id, virtual_size }): Body<VmRequest>,
) -> Result<Response, Problem> {
    let vms = shared.vms()?;
    let language = vms.language(&language)?;
    let peer = caller.peer;
    let place = vms.tenants.admit(peer)?;
    let most = vms.limits.session_idle;
    let idle = idle_seconds.map(|seconds| period("idle_seconds", seconds)).transpose()?;
    let disk = disk(&shared, &caller, id, virtual_size).await?;
    let lease = vms.create(language, peer, place, disk).await?;
    let session = vms.sessions.keep(lease, peer, idle.unwrap_or(most).min(most));
    let location = format!("/v1/vms/{}", session.vm().id());
    let answer = (StatusCode::CREATED, [(header::LOCATION, location)], Json(info(&session)));
    Ok(answer.into_response())
}

/// Says how a VM does.
#[utoipa::path(
    get,
    path = "/v1/vms/{id}",
    operation_id = "look_at_vm",
    tag = "virtual machines",
    params(("id" = String, Path, description = "The VM's id.")),
    responses((status = 200, description = "So it does.", body = VmInfo), Keeping)
)]
pub(super) async fn look(
    State(shared): State<Shared>,
    Caller { peer, .. }: Caller,
    InPath(id): InPath<String>,
) -> Result<Json<VmInfo>, Problem> {
    let session = find(shared.vms()?, &id, peer)?;
    Ok(Json(info(&session)))
}

/// Destroys a VM, whatever runs in it.
#[utoipa::path(
    delete,
    path = "/v1/vms/{id}",
    operation_id = "destroy_vm",
    tag = "virtual machines",
    params(("id" = String, Path, description = "The VM's id.")),
    responses((status = 204, description = "Nothing of it is left."), Keeping)
)]
pub(super) async fn destroy(
    State(shared): State<Shared>,
    Caller { peer, .. }: Caller,
    InPath(id): InPath<String>,
) -> Result<StatusCode, Problem> {
    let vms = shared.vms()?;
    let session = find(vms, &id, peer)?;
    vms.sessions.end(&session).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Runs a program in a VM that its user keeps.
///
/// The answer is that of `/v1/execute`. What the program leaves in the VM, the next one finds.
#[utoipa::path(
    post,
    path = "/v1/vms/{id}/execute",
    operation_id = "run",
    tag = "virtual machines",
    params(("id" = String, Path, description = "The VM's id.")),
    request_body(
        content(
            (RunRequest = "application/json"),
            (RunForm = "multipart/form-data"),
        ),
    ),
    responses(
        (status = 200, description = "It runs; what becomes of it, an event a line.", body = Event,
         content_type = "application/x-ndjson"),
        Running,
    )
)]
pub(super) async fn run(
    State(shared): State<Shared>,
    Caller { peer, .. }: Caller,
    InPath(id): InPath<String>,
    request: Request,
) -> Result<Response, Problem> {
    let vms = shared.vms()?;
    let session = find(vms, &id, peer)?;
    // Before anything of the request is kept.
    let turn = vms.sessions.take_turn(&session).ok_or_else(|| {
        let detail = format!("VM {id} runs another program: wait for its end");
        Problem::new(StatusCode::CONFLICT, "vm-busy", detail)
    })?;
    let asked = Asked::<RunRequest>::read(request, vms.limits.upload, vms.patience).await?;
    let Asked { request, files, stdin } = asked;
    let (order, files) = order(request, files, stdin)?;
    put_files(vms, turn.vm(), &files).await?;
    Ok(events::answer(Arc::clone(vms), Holder::Session(turn), order))
}

fn find(vms: &Vms, id: &str, peer: Peer) -> Result<Arc<Session>, Problem> {
    vms.sessions.find(id, peer).ok_or_else(|| {
        let detail = format!("VM {id:?}: not there, or not yours");
        Problem::new(StatusCode::NOT_FOUND, "unknown-vm", detail)
    })
}

fn info(session: &Session) -> VmInfo {
    let vm = session.vm();
    VmInfo {
        id: vm.id().to_owned(),
        language: vm.language().into(),
        state: vm.state().to_string(),
        start: start(vm),
        uid: session.uid,
        idle_seconds: session.idle.as_secs_f64(),
        disk: session.disk().cloned(),
    }
}
