//! What went wrong, and what to do about it.

use std::fmt;
use std::io;

use overlay_pool::Error;
use overlay_pool::api::{ClientError, Problem};
use overlay_pool::creator::CreatorError;
use overlay_pool::image::{BaseError, HeaderError};
use overlay_pool::place::PlaceError;
use overlay_pool::vm::{LanguagesError, UnknownLanguage};
use serde_json::{Value, json};

use super::exit::Exit;
use super::text;

/// One line for standard error, and the exit code that goes with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    line: String,
}

impl Failure {
    /// A failure with its cause and what to do about it; no advice if the cause gives it.
    pub(crate) fn new(exit: Exit, cause: impl fmt::Display, advice: &str) -> Self {
        let separator = if advice.is_empty() { "" } else { "; " };
        // What is named may come from an image.
        Self { exit, line: text::escaped(&format!("{cause}{separator}{advice}")) }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({ "exit_code": self.exit as u8, "message": self.line })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl From<clap::Error> for Failure {
    /// Clap's paragraphs are the cause, tips, the usage, and where to find help.
    fn from(error: clap::Error) -> Self {
        let said = error.to_string();
        let cause = one_line(said.split("\n\n").next().unwrap_or_default());
        let mut tips = said.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
        // Who says -f means an option, and not a file of that name.
        let tip = tips.find(|tip| !tip.starts_with("to pass "));
        let advice = tip.unwrap_or("try --help");
        Self::new(Exit::Usage, cause.strip_prefix("error: ").unwrap_or(&cause), advice)
    }
}

fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, advice) = match &error {
            Error::AlreadyExists { .. } => (Exit::TargetExists, ""),
            Error::Base(error) => base(error),
            Error::CreatorUnavailable { source, .. } => (Exit::CreatorUnavailable, creator(source)),
            Error::Target { source, .. } => (Exit::Failed, target(source)),
            Error::Create { source: CreatorError::Write(source), .. } => {
                (Exit::Failed, target(source))
            }
            Error::Create { source, .. } => (Exit::Failed, creator(source)),
            Error::Path { .. } => (Exit::Failed, "give an absolute path"),
            _ => (Exit::Failed, ""),
        };
        Self::new(exit, &error, advice)
    }
}

impl From<LanguagesError> for Failure {
    fn from(error: LanguagesError) -> Self {
        match &error {
            LanguagesError::Read { source, .. } => Self::new(Exit::Failed, &error, system(source)),
            _ => Self::new(Exit::Usage, &error, "see overlay-pool exec --help"),
        }
    }
}

impl From<&UnknownLanguage> for Failure {
    fn from(error: &UnknownLanguage) -> Self {
        Self::new(Exit::Usage, error, "name others with --interpreters")
    }
}

impl From<ClientError> for Failure {
    /// What the server says has its advice in it, in the words of HTTP.
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Connect { .. } => Exit::NoServer,
            error => match error.name() {
                Some("already-exists") => Exit::TargetExists,
                Some("bad-base") => Exit::BadImage,
                Some("creator-unavailable") => Exit::CreatorUnavailable,
                _ => Exit::Failed,
            },
        };
        let said = error.to_string();
        match said.strip_suffix(AS_RAW) {
            Some(said) => Self::new(exit, said, "if it is a raw image, add --raw"),
            None => Self::new(exit, &said, server(&error)),
        }
    }
}

/// How a client of the server declares a raw image.
const AS_RAW: &str = "; if it is a raw image, send \"format\": \"raw\"";

/// What to do about a server's refusal that doesn't say so.
fn server(error: &ClientError) -> &'static str {
    const NOT_FOUND: u16 = 404;
    match error {
        ClientError::Refused(Problem { error, detail, .. })
            if error == "forbidden" && detail.contains("outside of the directories") =>
        {
            "choose a path in them, or have the server allow others (serve --targets, --images)"
        }
        ClientError::Refused(Problem { error, status: NOT_FOUND, .. }) if error == "bad-base" => {
            "check the path"
        }
        ClientError::Refused(Problem { status: NOT_FOUND, .. }) => {
            "make the target's directory first"
        }
        ClientError::Refused(Problem { error, detail, .. })
            if ["bad-base", "bad-target", "create-failed"].contains(&&**error) =>
        {
            match detail {
                detail if detail.ends_with("(os error 13)") => "let the server's user do that",
                detail if detail.ends_with("(os error 28)") => "make room there",
                _ => "",
            }
        }
        _ => "",
    }
}

impl From<BaseError> for Failure {
    fn from(error: BaseError) -> Self {
        let (exit, advice) = base(&error);
        Self::new(exit, &error, advice)
    }
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        let advice = pool_dir(&error);
        Self::new(Exit::Failed, &error, advice)
    }
}

/// What to do about a pool directory that can't be used.
pub(super) fn pool_dir(error: &PlaceError) -> &'static str {
    // With an error number the system said so, without one we did, and gave the advice.
    if error.source.raw_os_error().is_some() {
        "name another with --dir or OVERLAY_POOL_DIR"
    } else {
        ""
    }
}

pub(super) fn base(error: &BaseError) -> (Exit, &'static str) {
    match error {
        BaseError::Io { source, .. } => (Exit::BadImage, system(source)),
        BaseError::NotAFile { .. } => (Exit::BadImage, "name a regular file"),
        BaseError::Reference { .. } => (Exit::BadImage, "or add --allow-references"),
        BaseError::Overlay { .. } => (Exit::BadImage, ""),
        BaseError::Header { source, .. } => (Exit::BadImage, header(source)),
        _ => (Exit::BadImage, "see what it holds with overlay-pool inspect"),
    }
}

/// What to do about an image that its header rules out.
pub(super) fn header(error: &HeaderError) -> &'static str {
    match error {
        HeaderError::Magic(_) => "if it is a raw image, add --raw",
        HeaderError::OutsideFile { .. } => {
            "the file may be cut off: get or copy the image again, or see overlay-pool inspect"
        }
        HeaderError::Other(_)
        | HeaderError::CutOff { .. }
        | HeaderError::Dirty
        | HeaderError::Corrupt
        | HeaderError::Encrypted(_) => "",
        _ => "see what it holds with overlay-pool inspect",
    }
}

/// What to do about a creator that failed.
pub(super) fn creator(error: &CreatorError) -> &'static str {
    match error {
        CreatorError::Write(error) => system(error),
        CreatorError::Spawn { .. } | CreatorError::NotUtf8(_) => "",
        _ => "try another --creator, and see overlay-pool doctor",
    }
}

/// What to do about what the system said of a target.
fn target(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make the target's directory first",
        io::ErrorKind::NotADirectory => "check the target's directory",
        _ => system(error),
    }
}

/// What to do about what the system said.
pub(super) fn system(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "check the path",
        io::ErrorKind::PermissionDenied => "change its permissions, or run as another user",
        io::ErrorKind::ReadOnlyFilesystem => "choose a path that can be written to",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
        _ => "check the path and the filesystem it is on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same fault has the same code as by `create`, and it is said who has to do what.
    #[test]
    fn what_a_server_meets_is_said_with_what_to_do() {
        let said = |error: &str, status, cause: &str| {
            Failure::from(ClientError::Refused(Problem {
                kind: String::new(),
                title: String::new(),
                status,
                detail: format!("x: {cause}"),
                error: error.to_owned(),
            }))
        };
        let denied = said("bad-base", 422, "Permission denied (os error 13)");
        let text = "x: Permission denied (os error 13); let the server's user do that";
        assert_eq!((denied.exit(), &*denied.to_string()), (Exit::BadImage, text));
        let full = said("create-failed", 507, "No space left on device (os error 28)");
        let text = "x: No space left on device (os error 28); make room there";
        assert_eq!((full.exit(), &*full.to_string()), (Exit::Failed, text));
        let other = said("vm-failed", 500, "Permission denied (os error 13)");
        assert_eq!(other.to_string(), "x: Permission denied (os error 13)");
    }
}
