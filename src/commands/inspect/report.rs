//! What an image is, as far as it could be decoded.

use std::error::Error;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use indicatif::BinaryBytes;
use overlay_pool::image::{
    BaseError, BaseImage, BaseRef, CompressionType, Format, Header, HeaderError, Kind,
    OverlayOptions, References, read_start,
};
use serde::{Serialize, Serializer};

use super::age;
use crate::commands::{failure, text};

const MAGIC: &[u8] = b"QFI\xfb";
/// What `stat` counts the space on disk in, whatever the filesystem's blocks are.
const BLOCK: u64 = 512;

/// An image and the verdict on it as a base.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    image: Name,
    format: Option<Format>,
    virtual_size: Option<u64>,
    file_size: u64,
    disk_size: u64,
    #[serde(flatten)]
    qcow2: Option<Qcow2>,
    refused: Option<String>,
    /// Whether it is refused for the files that it refers to, as each overlay is.
    #[serde(skip)]
    refers: bool,
    warnings: Vec<String>,
}

/// What a qcow2 header says.
#[derive(Debug, Serialize)]
struct Qcow2 {
    version: u32,
    cluster_size: u64,
    features: Vec<String>,
    compression: Option<CompressionType>,
    encrypted: bool,
    backing_file: Option<Name>,
    backing_format: Option<String>,
    data_file: Option<Name>,
    snapshots: u32,
}

impl Report {
    /// Reads the start of the image and judges it.
    pub(super) fn of(image: &BaseRef) -> Result<Self, BaseError> {
        let (start, metadata) = read_start(&image.path)?;
        let judged = BaseImage::open(image, References::Deny)
            .and_then(|base| base.overlay(OverlayOptions::default()));
        let refers = matches!(judged, Err(BaseError::Reference { .. }));
        let file_size = metadata.size();
        let kind = Kind::of(&start).filter(|_| image.format == Format::Raw);
        let mut warnings: Vec<_> =
            kind.map(|kind| format!("declared as raw, but it is {kind}")).into_iter().collect();
        let (format, virtual_size, qcow2) = match image.format {
            Format::Raw => (Some(Format::Raw), Some(file_size), None),
            Format::Qcow2 => {
                let header = Header::parse(&start).ok();
                let backing = header.as_ref().and_then(|header| header.backing_file.as_ref());
                warnings
                    .extend(backing.and_then(|base| age::warning(&image.path, &metadata, base)));
                let format = start.starts_with(MAGIC).then_some(Format::Qcow2);
                (format, header.as_ref().map(|header| header.size), header.map(Qcow2::from))
            }
        };
        Ok(Self {
            image: Name(image.path.clone()),
            format,
            virtual_size,
            file_size,
            disk_size: metadata.blocks() * BLOCK,
            qcow2,
            refused: judged.err().map(|error| reason(&error)),
            refers,
            warnings,
        })
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let format = self.format.map_or("unknown", Format::as_str);
        let version = self.qcow2.as_ref().map(|qcow2| format!(" version {}", qcow2.version));
        let verdict = self.refused.as_ref();
        let refused = if self.refers { "" } else { "refused: " };
        let verdict = verdict.map(|reason| format!("{refused}{}", text::escaped(reason)));

        let mut rows = vec![("image", self.image.to_string())];
        rows.push(("format", format!("{format}{}", version.unwrap_or_default())));
        rows.extend(self.virtual_size.map(|size| ("virtual size", bytes(size))));
        rows.push(("file size", bytes(self.file_size)));
        rows.push(("on disk", bytes(self.disk_size)));
        rows.extend(self.qcow2.iter().flat_map(Qcow2::rows));
        rows.push(("as a base", verdict.unwrap_or_else(|| "good".to_owned())));
        rows.extend(self.warnings.iter().map(|why| ("warning", text::escaped(why))));
        rows
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows().iter().try_for_each(|(what, value)| writeln!(f, "{what:<14}{value}"))
    }
}

impl Qcow2 {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        let backing = self.backing_file.as_ref().map(|name| match &self.backing_format {
            Some(format) => format!("{name} ({})", text::escaped(format)),
            None => format!("{name} (format not recorded)"),
        });
        let data_file = self.data_file.as_ref().map(Name::to_string);
        let compression = match self.compression {
            Some(CompressionType::Zlib) => "zlib",
            Some(CompressionType::Zstd) => "zstd",
            None => "unknown",
        };
        vec![
            ("cluster size", bytes(self.cluster_size)),
            ("features", or_none(self.features.join(", "))),
            ("compression", compression.to_owned()),
            ("encrypted", if self.encrypted { "yes" } else { "no" }.to_owned()),
            ("backing file", or_none(backing.unwrap_or_default())),
            ("data file", or_none(data_file.unwrap_or_default())),
            ("snapshots", self.snapshots.to_string()),
        ]
    }
}

impl From<Header> for Qcow2 {
    fn from(header: Header) -> Self {
        let mut features = header.incompatible_feature_names();
        features.extend(names("compatible", header.compatible_features, &["lazy refcounts"]));
        let autoclear = ["bitmaps", "raw external data"];
        features.extend(names("autoclear", header.autoclear_features, &autoclear));
        Self {
            version: header.version,
            cluster_size: 1 << header.cluster_bits,
            features,
            compression: header.compression(),
            encrypted: header.crypt_method != 0,
            backing_file: header.backing_file.map(Name),
            backing_format: header.extensions.backing_format,
            data_file: header.extensions.data_file.map(Name),
            snapshots: header.nb_snapshots,
        }
    }
}

/// The names of the bits that are set; those without a name by their number.
fn names(kind: &str, bits: u64, names: &[&str]) -> impl Iterator<Item = String> {
    (0..u64::BITS).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| {
        let name = usize::try_from(bit).ok().and_then(|bit| names.get(bit));
        name.map_or_else(|| format!("{kind} bit {bit}"), |name| (*name).to_owned())
    })
}

/// Why an image is refused, without the image's name if that can be left out.
fn reason(error: &BaseError) -> String {
    match error {
        BaseError::Header { source: source @ HeaderError::Magic(_), .. } => {
            format!("{source}; {}", failure::header(source))
        }
        // No fault of it: so is each overlay.
        BaseError::Reference { what, .. } => format!(
            "only with --allow-references, because of its {what}; or flatten it with qemu-img \
             convert"
        ),
        error => error.source().map_or_else(|| error.to_string(), ToString::to_string),
    }
}

fn bytes(count: u64) -> String {
    if count < 1024 {
        format!("{count} bytes")
    } else {
        format!("{} ({count} bytes)", BinaryBytes(count))
    }
}

/// A name as it stands in an image or on a disk: any bytes.
#[derive(Debug)]
struct Name(PathBuf);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::escaped_path(&self.0))
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_seq(self.0.as_os_str().as_bytes()),
        }
    }
}
