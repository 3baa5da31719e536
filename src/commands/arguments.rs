//! Arguments that several subcommands take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::Profile;
use overlay_pool::vm::{Accelerator, Languages, VmSettings};
use rustix::process::geteuid;

use super::exit::Exit;
use super::failure::Failure;

/// Where pools make their directories.
#[derive(Debug, clap::Args)]
pub(super) struct PoolDir {
    /// Where pools make their directories, instead of `OVERLAY_POOL_DIR` or the user's own place.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl PoolDir {
    pub(super) fn path(self) -> PathBuf {
        self.dir.unwrap_or_else(pool_dir)
    }
}

/// Where a server listens.
#[derive(Debug, clap::Args)]
pub(super) struct Socket {
    /// Where the server listens, instead of `OVERLAY_POOL_SOCKET` or /run/overlay-pool/pool.sock
    /// for root, else overlay-pool.sock in `XDG_RUNTIME_DIR`.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Socket {
    pub(super) fn path(self) -> Result<PathBuf, Failure> {
        socket(self.socket)
    }
}

/// Where pools make their directories by default: `OVERLAY_POOL_DIR` if it is set;
/// /var/lib/overlay-pool for root; else overlay-pool in `XDG_STATE_HOME` or ~/.local/state.
pub(super) fn pool_dir() -> PathBuf {
    if let Some(dir) = variable("OVERLAY_POOL_DIR") {
        return dir;
    }
    if geteuid().is_root() {
        return "/var/lib/overlay-pool".into();
    }
    let state = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| "/var/lib".into());
    state.join("overlay-pool")
}

/// Where base images of registries are kept by default: `OVERLAY_POOL_STORE` if it is set, or else
/// beside the pools.
#[cfg(feature = "images")]
pub(super) fn store() -> PathBuf {
    variable("OVERLAY_POOL_STORE").unwrap_or_else(|| pool_dir().join("base-images"))
}

/// Takes a registry and its mirror.
#[cfg(feature = "images")]
pub(super) fn mirror(text: &str) -> Result<(String, String), MirrorError> {
    match text.split_once('=') {
        Some((registry, mirror)) if !registry.is_empty() && !mirror.is_empty() => {
            Ok((registry.to_owned(), mirror.to_owned()))
        }
        _ => Err(MirrorError),
    }
}

/// Why a mirror isn't one.
#[cfg(feature = "images")]
#[derive(Debug, thiserror::Error)]
#[error("write a registry and its mirror, as in ghcr.io=mirror.example.com")]
pub(super) struct MirrorError;

/// What VMs are told by the environment, with this user's place for what it doesn't name.
pub(super) fn vm_settings() -> Result<VmSettings, Failure> {
    VmSettings::from_env_in(pool_dir())
        .map_err(|error| Failure::new(Exit::Usage, error, "or unset it"))
}

/// What they are told if the languages that there are stand in a file.
pub(super) fn with_interpreters(
    settings: VmSettings,
    file: Option<&Path>,
) -> Result<VmSettings, Failure> {
    let Some(file) = file else { return Ok(settings) };
    Ok(VmSettings { languages: Languages::read(file)?, ..settings })
}

/// A path that the environment names.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where a server listens: the path that was given, or `OVERLAY_POOL_SOCKET`, or the user's own
/// place.
pub(super) fn socket(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let path = given.or_else(|| variable("OVERLAY_POOL_SOCKET"));
    if let Some(path) = path {
        return Ok(path);
    }
    if geteuid().is_root() {
        return Ok("/run/overlay-pool/pool.sock".into());
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(|directory| directory.join("overlay-pool.sock"));
    runtime.ok_or_else(|| {
        let cause = "no socket: neither OVERLAY_POOL_SOCKET nor XDG_RUNTIME_DIR is set";
        Failure::new(Exit::Usage, cause, "name one with --socket")
    })
}

/// Takes a creator by its name.
pub(super) fn creator() -> impl TypedValueParser<Value = CreatorKind> {
    PossibleValuesParser::new(CreatorKind::ALL.map(CreatorKind::as_str)).map(|name| {
        let named = CreatorKind::ALL.into_iter().find(|creator| creator.as_str() == name);
        named.unwrap_or_default()
    })
}

/// Takes a profile by its name.
pub(super) fn profile() -> impl TypedValueParser<Value = Profile> {
    PossibleValuesParser::new(["qemu", "portable"]).map(|name| match name.as_str() {
        "portable" => Profile::Portable,
        _ => Profile::Qemu,
    })
}

/// Takes an accelerator by its name.
pub(super) fn accelerator() -> impl TypedValueParser<Value = Accelerator> {
    PossibleValuesParser::new(Accelerator::ALL.map(Accelerator::as_str))
        .try_map(|name| name.parse::<Accelerator>())
}

/// Takes a time that isn't none at all.
pub(super) fn period(text: &str) -> Result<Duration, PeriodError> {
    match humantime::parse_duration(text)? {
        Duration::ZERO => Err(PeriodError::Zero),
        period => Ok(period),
    }
}

/// Why a period isn't one.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeriodError {
    #[error(transparent)]
    Syntax(#[from] humantime::DurationError),
    #[error("it must be longer than that")]
    Zero,
}

/// Why a size isn't one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SizeError {
    #[error("a size is a number of bytes, or one with a unit, as in 64k, 20G or 20GiB")]
    Syntax,
    #[error("the size is over 8 EiB")]
    TooLarge,
}

/// Takes a size as `qemu-img` does, `4096`, `64k` or `1.5G`, and as people write it, `20GiB`. Units
/// are powers of 1024; `20GB` is refused, since it could be meant as one of 1000.
pub(super) fn size(text: &str) -> Result<u64, SizeError> {
    let text = match text.strip_suffix("iB").or_else(|| text.strip_suffix("ib")) {
        // Of a byte there is no such unit.
        Some(short) if short.ends_with(['b', 'B']) => return Err(SizeError::Syntax),
        Some(short) if short.ends_with(|last: char| last.is_ascii_alphabetic()) => short,
        Some(_) => return Err(SizeError::Syntax),
        None => text,
    };
    let (number, exponent) = match text.as_bytes() {
        [.., last] if last.is_ascii_alphabetic() => {
            let suffix = char::from(last.to_ascii_lowercase());
            let exponent = "bkmgtpe".find(suffix).ok_or(SizeError::Syntax)?;
            (&text[..text.len() - 1], exponent)
        }
        _ => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // There is no half of a byte.
    if !digits(whole) || !digits(fraction) || (number.contains('.') && exponent == 0) {
        return Err(SizeError::Syntax);
    }
    let unit = 1_u128 << (10 * exponent);
    // Digits after the eighteenth are worth less than a byte of the largest unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| SizeError::Syntax)?);
    let part = |digits: &str| digits.parse::<u128>().map_err(|_| SizeError::TooLarge);
    let bytes = part(whole)?
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(part(fraction).ok()? * unit / scale))
        .and_then(|bytes| i64::try_from(bytes).ok())
        .ok_or(SizeError::TooLarge)?;
    u64::try_from(bytes).map_err(|_| SizeError::TooLarge)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{SizeError, size};

    #[rstest]
    #[case("0", 0)]
    #[case("1", 1)]
    #[case("512b", 512)]
    #[case("64k", 64 << 10)]
    #[case("64K", 64 << 10)]
    #[case("1M", 1 << 20)]
    #[case("10g", 10 << 30)]
    #[case("1.5G", 3 << 29)]
    #[case("0.5k", 512)]
    #[case("2T", 2 << 40)]
    #[case("4P", 4 << 50)]
    #[case("7E", 7 << 60)]
    #[case("20GiB", 20 << 30)]
    #[case("1.5kib", 1536)]
    #[case("9223372036854775807", i64::MAX as u64)]
    #[case("1.00000000000000000000000000000000000000000001k", 1024)]
    fn sizes_are_those_of_qemu_img(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(size(text), Ok(bytes));
    }

    #[rstest]
    #[case("")]
    #[case("k")]
    #[case("-1")]
    #[case("+1")]
    #[case(" 1")]
    #[case("1 k")]
    #[case("1x")]
    #[case("1kB")]
    #[case("1iB")]
    #[case("1BiB")]
    #[case("1GiBiB")]
    #[case("GiB")]
    #[case("1.5")]
    #[case("1.5b")]
    #[case(".5k")]
    #[case("1.k")]
    #[case("1.-5k")]
    #[case("1.2.3k")]
    #[case("1٣k")]
    #[case("ké")]
    fn what_is_no_size_is_refused(#[case] text: &str) {
        assert_eq!(size(text), Err(SizeError::Syntax));
    }

    #[rstest]
    #[case("8E")]
    #[case("9223372036854775808")]
    #[case("18446744073709551616")]
    #[case("99999999999999999999999999999999999999999999")]
    #[case("340282366920938463463374607431768211455E")]
    fn a_size_that_overflows_is_an_error(#[case] text: &str) {
        assert_eq!(size(text), Err(SizeError::TooLarge));
    }
}
