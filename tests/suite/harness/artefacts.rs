//! What a failed test leaves in its folder, beside what it made there: what the pools in its
//! process logged, with every line of QMP, and the headers of the qcow2 files, decoded.
//!
//! Shims log to the folder themselves.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};

use overlay_pool::image::{BaseError, Header, read_start};

/// All that a pool has to say.
const LOG: &str = "overlay_pool=trace";

/// That, for a program of ours that `env` starts.
pub(crate) fn log_all() -> String {
    format!("OVERLAY_POOL_LOG={LOG}")
}

const MAGIC: &[u8] = b"QFI\xfb";

/// Has this process log to a file beside the folder, so that the folder is the test's alone. Under
/// nextest a process has one test; under `cargo test` the first has it for all.
pub(crate) fn begin(folder: &Path) {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let file = File::create(log_of(folder)).expect("the log is made");
        let log = tracing_subscriber::fmt().with_env_filter(LOG).with_ansi(false);
        // Only one can be had; nothing else of this binary wants one.
        let _ = log.with_writer(Mutex::new(file)).try_init();
    });
}

/// Removes the log of a test that passed.
pub(crate) fn forget(folder: &Path) {
    let _ = std::fs::remove_file(log_of(folder));
}

/// Puts everything into the folder of a test that failed.
pub(crate) fn keep(folder: &Path) {
    let _ = std::fs::rename(log_of(folder), folder.join("test.log"));
    let mut headers = String::new();
    decode_all(folder, folder, &mut headers);
    let _ = std::fs::write(folder.join("headers.txt"), headers);
}

fn log_of(folder: &Path) -> PathBuf {
    folder.with_extension("log")
}

fn decode_all(root: &Path, folder: &Path, headers: &mut String) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            decode_all(root, &path, headers);
        } else if metadata.is_file()
            && let Some(header) = decode(&path)
        {
            let name = path.strip_prefix(root).unwrap_or(&path);
            let _ = writeln!(headers, "{}, {} bytes: {header}\n", name.display(), metadata.len());
        }
    }
}

/// The header, or why it is none; nothing where the file doesn't look like qcow2.
fn decode(path: &Path) -> Option<String> {
    let is_named_so = path.extension().is_some_and(|extension| extension == "qcow2");
    let start = read_start(path).map(|(bytes, _)| bytes);
    match start {
        Ok(bytes) if bytes.starts_with(MAGIC) || is_named_so => Some(match Header::parse(&bytes) {
            Ok(header) => format!("{header:#?}"),
            Err(error) => error.to_string(),
        }),
        Err(error @ BaseError::Io { .. }) if is_named_so => Some(error.to_string()),
        _ => None,
    }
}
