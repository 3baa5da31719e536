//! Paths as text, which has no bytes that aren't UTF-8.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The path with each byte that isn't UTF-8 as `\xNN`, and the rest as `valid` writes it.
#[must_use]
pub fn text<T: AsRef<str>>(path: &Path, valid: impl Fn(&str) -> T) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text += valid(chunk.valid()).as_ref();
        text.extend(chunk.invalid().iter().map(|byte| format!(r"\x{byte:02x}")));
    }
    text
}
