//! Disks that were acquired with an id of the caller's.
//!
//! Of each there is a record, written before the disk is where it shall be, so that the same request
//! gives the same answer, also of a server that comes after this one; and so that the disk can be
//! removed by its id. A disk that is no more where it was put is its user's affair: its record is
//! forgotten, and whatever is there is left alone. If the filesystem that it was put on isn't mounted,
//! the record stays until its user removes the disk.
//!
//! An id is its user's: two users may have the same one and don't hear of each other.

mod book;
mod boot;
mod endpoints;
mod error;
mod hand_over;
mod key;
mod known;
#[cfg(feature = "vm")]
mod lend;
#[cfg(feature = "vm")]
mod lent;
mod record;
mod refusals;
mod seal;
mod upkeep;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::Shared;
pub use book::{leased_bases, leases_seal};
pub(super) use hand_over::acquire;
pub use known::LEASES;
pub(super) use known::Leases;
#[cfg(feature = "vm")]
pub(super) use lend::lend;
#[cfg(feature = "vm")]
pub(super) use lent::Lent;
pub(super) use upkeep::look_after;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(endpoints::list, endpoints::remove_all))
        .routes(routes!(endpoints::look, endpoints::remove))
}
