//! What the kubelet asks for, bounded and understood before anything is done.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::image;
use super::messages::{AccessType, Mode, NodePublishVolumeRequest, VolumeCapability};
use crate::api::{Label, LabelError};
use crate::image::Format;

/// How much of what a Pod says belongs into an error, in characters.
const SHOWN: usize = 128;
/// The longest path, in bytes (`PATH_MAX`, without its end).
const LONGEST_PATH: usize = 4095;
/// What the kubelet tells a driver of a Pod begins so.
const OF_KUBELET: &str = "csi.storage.k8s.io/";
/// Whether a volume lives as long as its Pod.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

/// Why a request can't be what the kubelet means.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("{0}: missing")]
    Missing(&'static str),
    #[error("{what}: longer than {longest} bytes")]
    TooLong { what: &'static str, longest: usize },
    #[error("volume_id: {0}")]
    Id(#[from] LabelError),
    #[error("{what}: an absolute path without . and .. is wanted")]
    Path { what: &'static str },
    #[error(
        "the volume is a directory with a disk image in it, not a block device: take volumeMounts"
    )]
    Block,
    #[error("{field}: not for a disk image; leave it out")]
    Unfit { field: &'static str },
    #[error("access mode {0:?}: a disk belongs to one Pod on one node")]
    AccessMode(Mode),
    #[error("volume_mount_group {0:?}: not the number of a group")]
    Group(String),
    #[error("the disk lives as long as its Pod: take an ephemeral volume (volumes: csi: ...)")]
    Persistent,
    #[error("volumeAttributes: {0:?} is none; there are image, size and format")]
    Attribute(String),
    #[error("volumeAttributes: image: {0}")]
    Image(#[from] image::ImageError),
    #[error("volumeAttributes: size: {0}")]
    Size(#[from] SizeError),
    #[error("volumeAttributes: format {0:?}: qcow2 or raw")]
    Format(String),
}

/// Why a size isn't one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SizeError {
    #[error("a number of bytes, or one with Ki, Mi, Gi or Ti, as in 20Gi")]
    Syntax,
    #[error("over 8 EiB")]
    TooLarge,
}

/// Takes the id of a volume. The kubelet's is `csi-` and a hash of the Pod's.
pub(super) fn id(text: String) -> Result<Label, RequestError> {
    if text.is_empty() {
        return Err(RequestError::Missing("volume_id"));
    }
    Ok(Label::try_from(text)?)
}

/// Takes a path as it is written: absolute, with names alone in it.
pub(super) fn path(what: &'static str, text: &str) -> Result<PathBuf, RequestError> {
    if text.is_empty() {
        return Err(RequestError::Missing(what));
    }
    if text.len() > LONGEST_PATH {
        return Err(RequestError::TooLong { what, longest: LONGEST_PATH });
    }
    let mut parts = Path::new(text).components();
    let is_rooted = parts.next() == Some(Component::RootDir);
    let mut names = parts.peekable();
    let is_named = names.peek().is_some() && names.all(|part| matches!(part, Component::Normal(_)));
    let is_plain = !text.contains('\0') && !text.split('/').any(|name| name == ".");
    if is_rooted && is_named && is_plain {
        Ok(Path::new(text).components().collect())
    } else {
        Err(RequestError::Path { what })
    }
}

/// A disk that a Pod shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) id: Label,
    /// The directory that the Pod sees.
    pub(super) target: PathBuf,
    /// Where the base image is, below the directory of images.
    pub(super) image: PathBuf,
    pub(super) format: Format,
    /// The size of the guest's disk in bytes, if it isn't the base image's.
    pub(super) size: Option<u64>,
    /// The Pod's `fsGroup`.
    pub(super) group: Option<u32>,
}

impl TryFrom<NodePublishVolumeRequest> for Publish {
    type Error = RequestError;

    fn try_from(request: NodePublishVolumeRequest) -> Result<Self, RequestError> {
        let id = id(request.volume_id)?;
        let target = path("target_path", &request.target_path)?;
        let capability = request.volume_capability;
        let group = group(capability.ok_or(RequestError::Missing("volume_capability"))?)?;
        if request.readonly {
            return Err(RequestError::Unfit { field: "readOnly" });
        }
        let Attributes { image, format, size } = Attributes::read(request.volume_context)?;
        Ok(Self { id, target, image: image::below(&image, format)?, format, size, group })
    }
}

/// The Pod's group, if the capability is one that a disk has.
fn group(capability: VolumeCapability) -> Result<Option<u32>, RequestError> {
    let mode = capability.access_mode.ok_or(RequestError::Missing("access_mode"))?.mode;
    match Mode::try_from(mode).unwrap_or(Mode::Unknown) {
        Mode::SingleNodeWriter | Mode::SingleNodeSingleWriter | Mode::SingleNodeMultiWriter => {}
        other => return Err(RequestError::AccessMode(other)),
    }
    let mount = match capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => return Err(RequestError::Block),
        None => return Err(RequestError::Missing("access_type")),
    };
    for (field, is_empty) in
        [("fsType", mount.fs_type.is_empty()), ("mountOptions", mount.mount_flags.is_empty())]
    {
        if !is_empty {
            return Err(RequestError::Unfit { field });
        }
    }
    match mount.volume_mount_group {
        none if none.is_empty() => Ok(None),
        // To the system the highest is none.
        number => match number.parse() {
            Ok(group) if group != u32::MAX => Ok(Some(group)),
            _ => Err(RequestError::Group(shortened(&number))),
        },
    }
}

/// What a Pod says of its disk.
#[derive(Debug)]
struct Attributes {
    image: String,
    format: Format,
    size: Option<u64>,
}

impl Attributes {
    fn read(context: HashMap<String, String>) -> Result<Self, RequestError> {
        let (mut image, mut format, mut size) = (String::new(), Format::Qcow2, None);
        for (key, value) in context {
            match (key.as_str(), value.as_str()) {
                ("image", _) => image = value,
                ("format", "qcow2") => format = Format::Qcow2,
                ("format", "raw") => format = Format::Raw,
                ("format", _) => return Err(RequestError::Format(shortened(&value))),
                ("size", text) => size = Some(bytes(text)?),
                (EPHEMERAL, "false") => return Err(RequestError::Persistent),
                (key, _) if key.starts_with(OF_KUBELET) => {}
                _ => return Err(RequestError::Attribute(shortened(&key))),
            }
        }
        if image.is_empty() {
            return Err(RequestError::Missing("volumeAttributes: image"));
        }
        Ok(Self { image, format, size })
    }
}

/// As much of what a Pod says as belongs into an error.
fn shortened(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Takes a size as Kubernetes writes it. Its `G`, which is 10⁹, is refused: to QEMU it is 2³⁰.
fn bytes(text: &str) -> Result<u64, SizeError> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let unit = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
    let (number, bits) = unit.unwrap_or((text, 0));
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SizeError::Syntax);
    }
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let bytes = number.checked_mul(1 << bits).filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.ok_or(SizeError::TooLarge)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::csi::messages::{AccessMode, BlockVolume, MountVolume};

    const TARGET: &str = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/disk/mount";

    fn asked() -> NodePublishVolumeRequest {
        let mount = MountVolume { volume_mount_group: "2000".to_owned(), ..MountVolume::default() };
        let context = [
            ("image", "python.qcow2"),
            ("size", "10Gi"),
            (EPHEMERAL, "true"),
            ("csi.storage.k8s.io/pod.name", "vm"),
        ];
        NodePublishVolumeRequest {
            volume_id: "csi-0123".to_owned(),
            target_path: TARGET.to_owned(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(mount)),
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            }),
            readonly: false,
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    fn mounted(change: impl FnOnce(&mut MountVolume)) -> NodePublishVolumeRequest {
        let mut request = asked();
        let mut mount = MountVolume::default();
        change(&mut mount);
        request.volume_capability.as_mut().expect("one").access_type =
            Some(AccessType::Mount(mount));
        request
    }

    fn with(key: &str, value: &str) -> NodePublishVolumeRequest {
        let mut request = asked();
        request.volume_context.insert(key.to_owned(), value.to_owned());
        request
    }

    fn refused(request: NodePublishVolumeRequest) -> RequestError {
        Publish::try_from(request).expect_err("it is refused")
    }

    #[test]
    fn a_request_is_understood() {
        let publish = Publish::try_from(asked()).expect("a good one");
        let id = "csi-0123".parse().expect("a label");
        let expected = Publish {
            id,
            target: TARGET.into(),
            image: "python.qcow2".into(),
            format: Format::Qcow2,
            size: Some(10 << 30),
            group: Some(2000),
        };
        assert_eq!(publish, expected);
        let raw = Publish::try_from(with("format", "raw")).expect("a good one");
        assert_eq!(raw.format, Format::Raw);
        let nobodys = Publish::try_from(mounted(|_| {})).expect("a good one");
        assert_eq!(nobodys.group, None);
    }

    /// The order is that of CSI's own suite, which leaves the later ones out.
    #[test]
    fn what_is_missing_is_named() {
        let mut request = NodePublishVolumeRequest::default();
        assert_eq!(refused(request.clone()), RequestError::Missing("volume_id"));
        request.volume_id = "1".to_owned();
        assert_eq!(refused(request.clone()), RequestError::Missing("target_path"));
        request.target_path = TARGET.to_owned();
        assert_eq!(refused(request.clone()), RequestError::Missing("volume_capability"));
        request.volume_capability = Some(VolumeCapability::default());
        assert_eq!(refused(request.clone()), RequestError::Missing("access_mode"));
        request.volume_capability = asked().volume_capability;
        assert_eq!(refused(request), RequestError::Missing("volumeAttributes: image"));
    }

    #[test]
    fn what_a_disk_is_not_is_refused() {
        let mut block = asked();
        let capability = block.volume_capability.as_mut().expect("one");
        capability.access_type = Some(AccessType::Block(BlockVolume {}));
        assert_eq!(refused(block), RequestError::Block);
        let read_only = NodePublishVolumeRequest { readonly: true, ..asked() };
        assert_eq!(refused(read_only), RequestError::Unfit { field: "readOnly" });
        let typed = mounted(|mount| mount.fs_type = "ext4".to_owned());
        assert_eq!(refused(typed), RequestError::Unfit { field: "fsType" });
        let flagged = mounted(|mount| mount.mount_flags = vec!["noatime".to_owned()]);
        assert_eq!(refused(flagged), RequestError::Unfit { field: "mountOptions" });
        assert_eq!(refused(with(EPHEMERAL, "false")), RequestError::Persistent);
        assert_eq!(refused(with("imgae", "x")), RequestError::Attribute("imgae".to_owned()));
        assert_eq!(refused(with("format", "vmdk")), RequestError::Format("vmdk".to_owned()));
    }

    #[rstest]
    #[case(Mode::Unknown)]
    #[case(Mode::SingleNodeReaderOnly)]
    #[case(Mode::MultiNodeReaderOnly)]
    #[case(Mode::MultiNodeSingleWriter)]
    #[case(Mode::MultiNodeMultiWriter)]
    fn a_disk_is_for_one_pod(#[case] mode: Mode) {
        let mut request = asked();
        let capability = request.volume_capability.as_mut().expect("one");
        capability.access_mode = Some(AccessMode { mode: mode.into() });
        assert_eq!(refused(request), RequestError::AccessMode(mode));
    }

    #[rstest]
    #[case("staff")]
    #[case("-1")]
    #[case("4294967295")]
    #[case("4294967296")]
    fn what_is_no_group_is_refused(#[case] group: &str) {
        let request = mounted(|mount| mount.volume_mount_group = group.to_owned());
        assert_eq!(refused(request), RequestError::Group(group.to_owned()));
    }

    #[rstest]
    #[case("csi-5f0a_1.2", true)]
    #[case("", false)]
    #[case(".hidden", false)]
    #[case("-rf", false)]
    #[case("a/b", false)]
    #[case("a b", false)]
    #[case("é", false)]
    #[case(&"a".repeat(128), true)]
    #[case(&"a".repeat(129), false)]
    fn ids_are_plain(#[case] id: &str, #[case] good: bool) {
        assert_eq!(super::id(id.to_owned()).is_ok(), good);
    }

    #[rstest]
    #[case("/a/b", Some("/a/b"))]
    #[case("/a//b/", Some("/a/b"))]
    #[case("/", None)]
    #[case("a/b", None)]
    #[case("/a/../b", None)]
    #[case("/a/./b", None)]
    #[case("/a/.", None)]
    #[case("/a\0b", None)]
    #[case("", None)]
    fn paths_are_absolute_and_plain(#[case] text: &str, #[case] understood: Option<&str>) {
        assert_eq!(path("target_path", text).ok().as_deref(), understood.map(Path::new));
    }

    #[test]
    fn a_path_is_bounded() {
        let long = format!("/{}", "a".repeat(LONGEST_PATH));
        let expected = RequestError::TooLong { what: "target_path", longest: LONGEST_PATH };
        assert_eq!(path("target_path", &long), Err(expected));
    }

    #[rstest]
    #[case("1048576", Ok(1 << 20))]
    #[case("64Ki", Ok(64 << 10))]
    #[case("20Gi", Ok(20 << 30))]
    #[case("2Ti", Ok(2 << 40))]
    #[case("20G", Err(SizeError::Syntax))]
    #[case("20GiB", Err(SizeError::Syntax))]
    #[case("1.5Gi", Err(SizeError::Syntax))]
    #[case("Gi", Err(SizeError::Syntax))]
    #[case("-1", Err(SizeError::Syntax))]
    #[case("", Err(SizeError::Syntax))]
    #[case("8388608Ti", Err(SizeError::TooLarge))]
    #[case("9223372036854775808", Err(SizeError::TooLarge))]
    #[case("99999999999999999999", Err(SizeError::TooLarge))]
    fn sizes_are_those_of_kubernetes(#[case] text: &str, #[case] size: Result<u64, SizeError>) {
        assert_eq!(bytes(text), size);
    }
}
