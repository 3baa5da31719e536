//! A VM that a client has.

use std::sync::Arc;

use super::tenants::Place;
use crate::api::server::leases::Lent;
use crate::api::wire::Label;
use crate::vm::{Vm, VmManager};

/// A VM that is destroyed when this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    manager: Arc<VmManager>,
    vm: Arc<Vm>,
    /// Its user's disk, if it has one of those.
    lent: Option<Lent>,
    _place: Place,
}

impl Lease {
    pub(super) fn new(
        manager: Arc<VmManager>,
        vm: Arc<Vm>,
        place: Place,
        lent: Option<Lent>,
    ) -> Self {
        Self { manager, vm, lent, _place: place }
    }

    /// What its user calls the disk that it has, if it has one of those.
    pub(super) fn disk(&self) -> Option<&Label> {
        self.lent.as_ref().map(Lent::id)
    }

    pub(super) fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    /// Destroys the VM, and waits until it is.
    pub(super) async fn end(&self) {
        self.manager.destroy_vm(&self.vm).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.manager.destroy_vm_now(&self.vm);
    }
}
