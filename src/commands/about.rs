//! `--version`: what this program is, and which QEMU it finds.

use std::fmt::Write;

use futures_util::future::join_all;

use super::block_on;
use super::text::escaped;
use super::version::version;

/// The programs of QEMU that are looked for.
const PROGRAMS: [&str; 3] = ["qemu-img", "qemu-storage-daemon", "qemu-system-x86_64"];

/// Cargo's features.
const FEATURES: [(&str, bool); 6] = [
    ("cli", cfg!(feature = "cli")),
    ("client", cfg!(feature = "client")),
    ("server", cfg!(feature = "server")),
    ("vm", cfg!(feature = "vm")),
    ("images", cfg!(feature = "images")),
    ("csi", cfg!(feature = "csi")),
];

/// A line each.
pub(super) fn about() -> String {
    let mut text = concat!("overlay-pool ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    // Whoever builds a package or a release says it.
    let commit = option_env!("OVERLAY_POOL_COMMIT").unwrap_or("unknown");
    let _ = writeln!(text, "commit               {commit}");
    let features = FEATURES.into_iter().filter_map(|(name, is_on)| is_on.then_some(name));
    let features = features.collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "features             {features}");
    let found = block_on(join_all(PROGRAMS.map(version)));
    for (program, version) in PROGRAMS.iter().zip(found.unwrap_or_default()) {
        let version = version.unwrap_or_else(|error| error.to_string());
        let _ = writeln!(text, "{program:<21}{}", escaped(&version));
    }
    text
}
