//! Text that is safe on a terminal: names in images and on disks may hold anything.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use overlay_pool::paths;
use serde_json::Value;

/// The text with everything that doesn't print (line ends and terminal escape sequences among
/// it) written as an escape, and backslashes doubled, so that an escape is always one of ours.
pub(super) fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, char| {
        match char {
            '"' | '\'' => out.push(char),
            _ => out.extend(char.escape_debug()),
        }
        out
    })
}

/// Like [`escaped`], with bytes that aren't UTF-8 as `\xNN`.
pub(super) fn escaped_path(path: &Path) -> String {
    paths::text(path, escaped)
}

/// A path in JSON: text, or where it isn't UTF-8 an array of its bytes.
pub(super) fn path_json(path: &Path) -> Value {
    match path.to_str() {
        Some(text) => text.into(),
        None => path.as_os_str().as_bytes().into(),
    }
}

/// JSON means the same, and shows on a terminal what it means, with everything that doesn't
/// print escaped. Line ends between its tokens stay.
pub(super) fn escaped_json(json: &str) -> String {
    json.chars().fold(String::new(), |mut out, char| {
        if char == '\n' || matches!(char, '"' | '\'' | '\\') || char.escape_debug().len() == 1 {
            out.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use rstest::rstest;

    use super::{escaped_json, escaped_path};

    #[rstest]
    #[case::plain(b"a b,c:d", "a b,c:d")]
    #[case::unicode("Grüße/雪".as_bytes(), "Grüße/雪")]
    #[case::quotes(b"it's \"it\"", "it's \"it\"")]
    #[case::escape_sequence(b"\x1b[2J", "\\u{1b}[2J")]
    #[case::c1_escape_sequence("\u{9b}2J".as_bytes(), "\\u{9b}2J")]
    #[case::line_end(b"one\ntwo\r", "one\\ntwo\\r")]
    #[case::backslash(b"\\n", "\\\\n")]
    #[case::right_to_left("\u{202e}gpj".as_bytes(), "\\u{202e}gpj")]
    #[case::not_utf8(b"a\xff\xc3b", "a\\xff\\xc3b")]
    fn nothing_reaches_the_terminal_unescaped(#[case] name: &[u8], #[case] shown: &str) {
        assert_eq!(escaped_path(OsStr::from_bytes(name).as_ref()), shown);
    }

    #[rstest]
    #[case("a\"b\\c")]
    #[case("Grüße\n\t")]
    #[case("\u{9b}2J\u{1b}\u{7f}")]
    #[case("\u{202e}\u{e0001}")]
    fn json_keeps_its_meaning(#[case] name: &str) {
        let json = escaped_json(&serde_json::to_string(name).expect("JSON"));
        assert_eq!(serde_json::from_str::<String>(&json).expect("still JSON"), name);
        assert!(!json.chars().any(|char| char.is_control() || char == '\u{202e}'), "{json:?}");
    }
}
