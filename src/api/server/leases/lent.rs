//! That a VM has a disk.

use super::key::Claim;
use crate::api::wire::Label;

/// A disk that a VM has. Until this is dropped it isn't removed, and no other VM has it.
#[derive(Debug)]
pub(in crate::api::server) struct Lent(pub(super) Claim);

impl Lent {
    pub(in crate::api::server) fn id(&self) -> &Label {
        &self.0.key().id
    }
}
