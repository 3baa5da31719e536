//! A VM that a client has.

use std::sync::Arc;

use super::tenants::Place;
use crate::vm::{Vm, VmManager};

/// A VM that is destroyed when this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    manager: Arc<VmManager>,
    vm: Arc<Vm>,
    _place: Place,
}

impl Lease {
    pub(super) fn new(manager: Arc<VmManager>, vm: Arc<Vm>, place: Place) -> Self {
        Self { manager, vm, _place: place }
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
