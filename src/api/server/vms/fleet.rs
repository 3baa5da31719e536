//! The VMs of a server, and who has them.

use std::sync::Arc;
use std::time::Duration;

use super::figures::Figures;
use super::lease::Lease;
use super::sessions::Sessions;
use super::tenants::{Place, Tenants};
use crate::api::server::leases::Lent;
use crate::api::server::peers::Peer;
use crate::api::wire::{self, Problem};
use crate::vm::{Language, VmDisk, VmManager};

/// What clients may have of VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmLimits {
    /// How many VMs a user has at once, who is neither root nor the server's own; none for half of
    /// all. Default none.
    pub per_user: Option<usize>,
    /// After how long without a program a session is ended. Default 5 minutes.
    pub session_idle: Duration,
    /// The most bytes that a request to run a program may have, its standard input apart; and the
    /// most that the files have which come back. Default 16 MiB.
    pub upload: usize,
}

impl Default for VmLimits {
    fn default() -> Self {
        Self { per_user: None, session_idle: Duration::from_secs(300), upload: 16 << 20 }
    }
}

/// The VMs of a server.
#[derive(Debug)]
pub(in crate::api::server) struct Vms {
    pub(super) manager: Arc<VmManager>,
    pub(super) limits: VmLimits,
    /// How long a request may take to come.
    pub(super) patience: Duration,
    pub(super) tenants: Tenants,
    pub(super) sessions: Sessions,
    pub(super) figures: Figures,
}

impl Vms {
    pub(in crate::api::server) fn new(
        manager: Arc<VmManager>,
        limits: VmLimits,
        patience: Duration,
    ) -> Self {
        let all = usize::try_from(manager.settings().max_concurrent_vms).unwrap_or(usize::MAX);
        let tenants = Tenants::new(limits.per_user.unwrap_or(all / 2).max(1));
        let (sessions, figures) = (Sessions::default(), Figures::default());
        Self { manager, limits, patience, tenants, sessions, figures }
    }

    pub(in crate::api::server) fn is_started(&self) -> bool {
        self.manager.is_started()
    }

    /// Ends those that users keep, in order, and not only when the last of the server goes.
    pub(in crate::api::server) async fn end_sessions(&self) {
        self.sessions.end_all().await;
    }

    /// How long a program may run that says nothing else, and all files may take that go in or come
    /// out.
    pub(super) fn time(&self) -> Duration {
        self.manager.settings().execute_timeout
    }

    /// How long a VM may take to come: it may boot twice, once to save its state, and be resumed in
    /// vain between.
    pub(in crate::api::server) fn boot_patience(&self) -> Duration {
        3 * self.manager.settings().boot_timeout
    }

    /// The language that a client names.
    pub(super) fn language(
        &self,
        wire::Language(name): &wire::Language,
    ) -> Result<Language, Problem> {
        Ok(self.manager.settings().languages.find(name)?)
    }

    /// A VM for a user who may have one more.
    pub(super) async fn create(
        &self,
        language: Language,
        peer: Peer,
        place: Place,
        (disk, lent): (VmDisk, Option<Lent>),
    ) -> Result<Lease, Problem> {
        let tenant = format!("uid-{}", peer.uid());
        let created = self.manager.create_vm_with(disk, language, &tenant, "http").await;
        let vm = created.inspect_err(|_| self.figures.not_created(language))?;
        self.figures.created(language, &vm);
        tracing::debug!(%peer, vm = vm.id(), %language, start = ?vm.start(), "VM");
        Ok(Lease::new(Arc::clone(&self.manager), vm, place, lent))
    }
}
