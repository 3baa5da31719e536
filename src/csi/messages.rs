//! The messages of the Container Storage Interface (CSI, 1.x) that Identity and Node need, with the
//! field numbers of its specification. Fields that this driver has no use for are left out: whoever
//! reads a message passes over those.

use std::collections::HashMap;

/// Asks for the plugin's name.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetPluginInfoRequest {}

/// The plugin's name and version.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetPluginInfoResponse {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) vendor_version: String,
}

/// Asks what the plugin has beside Identity and Node.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetPluginCapabilitiesRequest {}

/// What it has: nothing, so that the field of the capabilities isn't here.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetPluginCapabilitiesResponse {}

/// Asks whether the plugin is ready.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ProbeRequest {}

/// Whether it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ProbeResponse {
    /// `google.protobuf.BoolValue`, which prost has for `bool`.
    #[prost(message, optional, tag = "1")]
    pub(super) ready: Option<bool>,
}

/// How a volume shall be accessed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct VolumeCapability {
    #[prost(oneof = "AccessType", tags = "1, 2")]
    pub(super) access_type: Option<AccessType>,
    #[prost(message, optional, tag = "3")]
    pub(super) access_mode: Option<AccessMode>,
}

/// As what a volume is seen.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum AccessType {
    /// As a block device.
    #[prost(message, tag = "1")]
    Block(BlockVolume),
    /// As a directory.
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

/// Says that it is a block device.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BlockVolume {}

/// How a directory is mounted.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MountVolume {
    #[prost(string, tag = "1")]
    pub(super) fs_type: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) mount_flags: Vec<String>,
    /// The Pod's `fsGroup`, to a driver with [`NodeCapability::VolumeMountGroup`].
    #[prost(string, tag = "3")]
    pub(super) volume_mount_group: String,
}

/// From how many nodes a volume is used, and how.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AccessMode {
    #[prost(enumeration = "Mode", tag = "1")]
    pub(super) mode: i32,
}

/// Who may use a volume at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Mode {
    Unknown = 0,
    SingleNodeWriter = 1,
    SingleNodeReaderOnly = 2,
    MultiNodeReaderOnly = 3,
    MultiNodeSingleWriter = 4,
    MultiNodeMultiWriter = 5,
    SingleNodeSingleWriter = 6,
    SingleNodeMultiWriter = 7,
}

/// Has a volume made and shown to a Pod.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodePublishVolumeRequest {
    #[prost(string, tag = "1")]
    pub(super) volume_id: String,
    #[prost(string, tag = "4")]
    pub(super) target_path: String,
    #[prost(message, optional, tag = "5")]
    pub(super) volume_capability: Option<VolumeCapability>,
    #[prost(bool, tag = "6")]
    pub(super) readonly: bool,
    /// The `volumeAttributes`, and what the kubelet adds.
    #[prost(map = "string, string", tag = "8")]
    pub(super) volume_context: HashMap<String, String>,
}

/// The volume is there.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodePublishVolumeResponse {}

/// Has a volume removed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeUnpublishVolumeRequest {
    #[prost(string, tag = "1")]
    pub(super) volume_id: String,
    #[prost(string, tag = "2")]
    pub(super) target_path: String,
}

/// The volume is gone.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeUnpublishVolumeResponse {}

/// Asks how full a volume is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeGetVolumeStatsRequest {
    #[prost(string, tag = "1")]
    pub(super) volume_id: String,
    #[prost(string, tag = "2")]
    pub(super) volume_path: String,
}

/// How full it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeGetVolumeStatsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) usage: Vec<VolumeUsage>,
}

/// How full a volume is, in one unit.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct VolumeUsage {
    #[prost(int64, tag = "1")]
    pub(super) available: i64,
    #[prost(int64, tag = "2")]
    pub(super) total: i64,
    #[prost(int64, tag = "3")]
    pub(super) used: i64,
    #[prost(enumeration = "Unit", tag = "4")]
    pub(super) unit: i32,
}

/// What a volume's fullness is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Unit {
    Unknown = 0,
    Bytes = 1,
    Inodes = 2,
}

/// Asks which calls and fields the Node service knows.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeGetCapabilitiesRequest {}

/// Those that it knows.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeGetCapabilitiesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) capabilities: Vec<NodeServiceCapability>,
}

/// Something that the Node service knows.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeServiceCapability {
    #[prost(oneof = "CapabilityType", tags = "1")]
    pub(super) capability: Option<CapabilityType>,
}

/// The kinds of such things, of which there is one.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum CapabilityType {
    /// A call, or a field of one.
    #[prost(message, tag = "1")]
    Rpc(RpcCapability),
}

/// A call, or a field of one.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RpcCapability {
    #[prost(enumeration = "NodeCapability", tag = "1")]
    pub(super) capability: i32,
}

/// The calls and fields that a Node service may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum NodeCapability {
    Unknown = 0,
    /// `NodeGetVolumeStats`.
    GetVolumeStats = 2,
    /// The field `volume_mount_group`.
    VolumeMountGroup = 6,
}

/// Asks what node this is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeGetInfoRequest {}

/// What node it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeGetInfoResponse {
    #[prost(string, tag = "1")]
    pub(super) node_id: String,
    /// 0 if nobody says how many.
    #[prost(int64, tag = "2")]
    pub(super) max_volumes_per_node: i64,
}
