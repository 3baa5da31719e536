//! What goes over the wire as JSON, the same for the server and its clients.

mod leases;
#[cfg(feature = "vm")]
mod of_vms;
mod vms;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;
#[cfg(feature = "server")]
use utoipa::ToSchema;

use crate::image::{BaseRef, Format};
use crate::{paths, pool};

pub use leases::{Label, LabelError, Lease};
pub use vms::{
    Data, EndReason, Event, ExecuteRequest, Language, PhaseSeconds, ProgramLimits, RunRequest,
    VmInfo, VmRequest, VmStart,
};

/// A base image, as a client names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BaseRequest {
    /// Its absolute path.
    #[cfg_attr(feature = "server", schema(
        value_type = String, pattern = r"^/[^\u0000]*$", max_length = 4095,
        example = "/var/lib/vms/images/python-3-base-x86_64.qcow2",
    ))]
    pub path: PathBuf,
    /// Its format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    pub format: Format,
}

impl From<BaseRequest> for BaseRef {
    fn from(BaseRequest { path, format }: BaseRequest) -> Self {
        Self { path, format }
    }
}

/// What is to be handed over, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AcquireRequest {
    /// The base image's absolute path.
    #[cfg_attr(feature = "server", schema(
        value_type = String, pattern = r"^/[^\u0000]*$", max_length = 4095,
        example = "/var/lib/vms/images/python-3-base-x86_64.qcow2",
    ))]
    pub base: PathBuf,
    /// The base image's format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    pub format: Format,
    /// Where the overlay shall be: an absolute path at which nothing is.
    #[cfg_attr(feature = "server", schema(
        value_type = String, max_length = 4095,
        pattern = r"^/([^\u0000]*/)?[^/\u0000]*[^/.\u0000][^/\u0000]*$",
        example = "/var/lib/vms/run/17/disk.qcow2",
    ))]
    pub target: PathBuf,
    /// The size of the guest's disk in bytes: the base image's by default, and never smaller.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "server",
        schema(minimum = 0, maximum = 4_503_599_627_370_496_i64, example = 10_737_418_240_u64,)
    )]
    pub virtual_size: Option<u64>,
    /// What the caller calls the disk. The same request with the same id gives the same answer, and
    /// `DELETE /v1/disks/{id}` removes the disk. 1 to 128 ASCII letters, digits and any of `-._:@`,
    /// of which the first is a letter or a digit.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, pattern = r"^[0-9A-Za-z][0-9A-Za-z._:@-]{0,127}$",
        example = "vm-17",
    ))]
    pub id: Option<Label>,
    /// A label by which disks with an id are listed and removed together; written as an id.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, pattern = r"^[0-9A-Za-z][0-9A-Za-z._:@-]{0,127}$",
        example = "ci",
    ))]
    pub owner: Option<Label>,
}

/// What was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
pub struct AcquireAnswer {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image's resolved path.
    #[serde(serialize_with = "path")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2",
    ))]
    pub base: PathBuf,
    /// Where the overlay is.
    #[serde(serialize_with = "path")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, example = "/var/lib/vms/run/17/disk.qcow2",
    ))]
    pub target: PathBuf,
    /// How long the pool took, in microseconds.
    #[cfg_attr(feature = "server", schema(example = 27))]
    pub took_us: u64,
}

/// What is to be handed over as an open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// The base image's absolute path.
    #[cfg_attr(feature = "server", schema(
        value_type = String, pattern = r"^/[^\u0000]*$", max_length = 4095,
        example = "/var/lib/vms/images/python-3-base-x86_64.qcow2",
    ))]
    pub base: PathBuf,
    /// The base image's format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    pub format: Format,
    /// The size of the guest's disk in bytes: the base image's by default, and never smaller.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "server",
        schema(minimum = 0, maximum = 4_503_599_627_370_496_i64, example = 10_737_418_240_u64,)
    )]
    pub virtual_size: Option<u64>,
}

/// What was handed over as an open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
pub struct OpenAnswer {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image's resolved path.
    #[serde(serialize_with = "path")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2",
    ))]
    pub base: PathBuf,
    /// How long the pool took, in microseconds.
    #[cfg_attr(feature = "server", schema(example = 27))]
    pub took_us: u64,
}

/// Where an acquired overlay came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A shelf.
    Pooled,
    /// Made for this call.
    OnDemand,
}

impl From<pool::Source> for Source {
    fn from(source: pool::Source) -> Self {
        match source {
            pool::Source::Pooled => Self::Pooled,
            pool::Source::OnDemand => Self::OnDemand,
        }
    }
}

/// A base image that overlays are kept ready of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
pub struct BaseAdded {
    /// Its resolved path.
    #[serde(serialize_with = "path")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2",
    ))]
    pub path: PathBuf,
}

/// How many overlays were given up, or disks removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
pub struct Removed {
    /// Their number.
    #[cfg_attr(feature = "server", schema(example = 5))]
    pub removed: u64,
}

/// What a pool has of one base image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[non_exhaustive]
pub struct BaseState {
    /// Its resolved path.
    #[serde(serialize_with = "path")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2",
    ))]
    pub path: PathBuf,
    /// Its declared format.
    pub format: Format,
    /// The size of the guest's disk in bytes; none if the image can't be used now.
    pub virtual_size: Option<u64>,
    /// Why the image can't be used now; none if it can.
    pub refused: Option<String>,
    /// How many overlays are ready.
    pub ready: usize,
    /// How many of them are of another state of the image than the one on disk now: they will be
    /// discarded and not handed over.
    pub stale: usize,
    /// How many are being made ahead.
    pub pending: usize,
    /// How many shall be ready.
    pub target: usize,
    /// How many disks of it were acquired with an id and are still there.
    #[serde(default)]
    pub leases: usize,
}

#[cfg(feature = "server")]
impl BaseState {
    /// What a pool has, of which `target` overlays shall be ready, beside the file as it is now;
    /// `judge` says why a file that can't be used is refused.
    pub(super) fn of(
        state: pool::BaseState,
        target: usize,
        judge: impl FnOnce(&BaseRef) -> Option<String>,
    ) -> Self {
        let refused = if state.virtual_size.is_none() { judge(&state.base) } else { None };
        let is_stale = || crate::image::Identity::of(&state.base.path).ok() != state.identity;
        let stale = if state.ready > 0 && is_stale() { state.ready } else { 0 };
        let (BaseRef { path, format }, ready) = (state.base, state.ready);
        Self {
            path,
            format,
            virtual_size: state.virtual_size,
            refused,
            ready,
            stale,
            pending: state.pending,
            target,
            leases: 0,
        }
    }
}

/// What a pool holds now, and what it did since it was made (rule T1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[non_exhaustive]
pub struct Stats {
    /// Ready overlays by resolved base path; empty if the pool has no shelves.
    #[serde(serialize_with = "keys")]
    #[cfg_attr(feature = "server", schema(value_type = BTreeMap<String, u64>))]
    pub ready: BTreeMap<PathBuf, usize>,
    /// Acquires that took a ready overlay.
    pub pooled: u64,
    /// Acquires whose overlay was made for them.
    pub on_demand: u64,
    /// Acquires on a started pool that ended in an error.
    pub failed: u64,
    /// Ready overlays that were removed instead of handed over: their base changed or was idle,
    /// they couldn't be moved, or somebody else had removed them.
    pub discarded: u64,
}

impl From<pool::Stats> for Stats {
    fn from(stats: pool::Stats) -> Self {
        Self {
            ready: stats.ready,
            pooled: stats.pooled,
            on_demand: stats.on_demand,
            failed: stats.failed,
            discarded: stats.discarded,
        }
    }
}

/// What went wrong, in the form of RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
pub struct Problem {
    /// A URI that names the kind of problem: `urn:overlay-pool:` and the name in `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time: path, cause, and what to do.
    pub detail: String,
    /// The contract's name of the error, or the server's own.
    pub error: String,
}

/// A path, with each byte that isn't UTF-8 as `\xNN`.
fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(path))
}

fn text(path: &Path) -> Cow<'_, str> {
    path.to_str().map_or_else(|| paths::text(path, str::to_owned).into(), Cow::Borrowed)
}

/// What there is of each path.
fn keys<S: Serializer, V: Serialize>(
    of: &BTreeMap<PathBuf, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(of.iter().map(|(path, value)| (text(path), value)))
}

/// A number that is whole, also if it is written with a fraction: to JSON Schema, and to clients
/// that have one kind of number, `1024.0` is an integer.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(deserializer)? else { return Ok(None) };
    let written_out = || {
        let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
        format!("{number:.0}").parse().ok()
    };
    let whole = number.as_u64().or_else(written_out);
    let error =
        || D::Error::custom(format_args!("{number} isn't a whole number from 0 to 2^64 - 1"));
    whole.map(Some).ok_or_else(error)
}

/// What isn't there, or is something; never nothing.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Label>, D::Error> {
    Label::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::OpenRequest;

    fn size(size: &Value) -> Result<Option<u64>, String> {
        let request = json!({ "base": "/base", "virtual_size": size });
        let request: Result<OpenRequest, _> = serde_json::from_value(request);
        request.map(|request| request.virtual_size).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(json!(1024), Some(1024))]
    #[case(json!(1024.0), Some(1024))]
    #[case(json!(1e15), Some(1_000_000_000_000_000))]
    #[case(json!(0.0), Some(0))]
    #[case(json!(u64::MAX), Some(u64::MAX))]
    #[case(Value::Null, None)]
    fn a_whole_number_is_a_size(#[case] number: Value, #[case] expected: Option<u64>) {
        assert_eq!(size(&number), Ok(expected));
    }

    #[rstest]
    #[case(json!(0.5))]
    #[case(json!(-1))]
    #[case(json!(-1.0))]
    #[case(json!(1e300))]
    #[case(json!("1024"))]
    #[case(json!(true))]
    fn nothing_else_is(#[case] number: Value) {
        size(&number).expect_err("no size");
    }
}
