//! Which lease.

use crate::api::wire::Label;

/// Whose lease, and what its user calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) uid: u32,
    pub(super) id: Label,
}

/// Who does something with which lease.
pub(super) type Claims = crate::claims::Claims<Key>;

/// The right to do something with a lease, until it is dropped.
pub(super) type Claim = crate::claims::Claim<Key>;
