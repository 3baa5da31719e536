//! `unshare`, which gives cases namespaces of their own.

use std::process::Output;

/// Why it failed: what was said, of which some may be elsewhere, or how it ended.
pub(crate) fn why(output: &Output, mut said: String) -> String {
    said += &String::from_utf8_lossy(&output.stderr);
    if said.trim().is_empty() {
        return format!("unshare: {}", output.status);
    }
    said.trim().to_owned()
}
