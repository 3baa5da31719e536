//! As much of CSI's messages as is sent here.

use std::collections::HashMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Publish {
    #[prost(string, tag = "1")]
    pub(super) volume_id: String,
    #[prost(string, tag = "4")]
    pub(super) target_path: String,
    #[prost(message, optional, tag = "5")]
    capability: Option<Capability>,
    #[prost(map = "string, string", tag = "8")]
    context: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Capability {
    #[prost(message, optional, tag = "2")]
    mount: Option<Nothing>,
    #[prost(message, optional, tag = "3")]
    access_mode: Option<AccessMode>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AccessMode {
    #[prost(int32, tag = "1")]
    mode: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Unpublish {
    #[prost(string, tag = "1")]
    volume_id: String,
    #[prost(string, tag = "2")]
    target_path: String,
}

impl Publish {
    /// A disk of a raw image.
    pub(super) fn new(volume_id: String, target_path: String, image: &str) -> Self {
        let context = [("image", image), ("format", "raw")];
        Self {
            volume_id,
            target_path,
            // SINGLE_NODE_WRITER
            capability: Some(Capability {
                mount: Some(Nothing {}),
                access_mode: Some(AccessMode { mode: 1 }),
            }),
            context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }
}

impl Unpublish {
    pub(super) fn of(volume: &Publish) -> Self {
        Self { volume_id: volume.volume_id.clone(), target_path: volume.target_path.clone() }
    }
}
