//! How far a transfer is.

use std::sync::Arc;

/// How far a blob has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes are there.
    pub done: u64,
    /// How many there will be.
    pub size: u64,
}

/// Is told how far a blob has come, often.
pub type Tell = Arc<dyn Fn(Progress) + Send + Sync>;
