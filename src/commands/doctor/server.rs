//! Whether a server runs where one is looked for.

use overlay_pool::api::{Client, ClientError};

use super::Finding;
use crate::commands::arguments::Socket;

const WHAT: &str = "server";

pub(super) async fn look(socket: Socket) -> Finding {
    let socket = match socket.path() {
        Ok(socket) => socket,
        Err(failure) => return Finding::note(WHAT, failure, ""),
    };
    let shown = socket.display().to_string();
    match Client::new(socket).not_ready().await {
        Ok(None) => Finding::ok(WHAT, format!("{shown}: ready")),
        Ok(Some(reason)) => Finding::note(WHAT, format!("{shown}: {reason}"), ""),
        Err(error @ ClientError::Connect { .. }) => Finding {
            details: error.to_string(),
            ..Finding::note(WHAT, format!("none at {shown}"), "start one with overlay-pool serve")
        },
        Err(error) => Finding::note(WHAT, error, ""),
    }
}
