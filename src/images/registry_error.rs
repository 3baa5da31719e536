//! What a registry did instead of what it was asked for.

use std::error::Error;
use std::io;

use oci_client::errors::{OciDistributionError, OciErrorCode};

use super::digest::Digest;

/// How much of what a registry says is repeated.
const SHOWN: usize = 300;

/// Why a registry gave nothing that could be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It can't be reached, it is silent for too long, or the connection breaks off.
    #[error("no answer, or not all of it: {0}")]
    Transport(String),
    /// It isn't who it says it is, as far as this system knows.
    #[error(
        "its certificate isn't trusted: {0}; if an authority of your own signed it, name a file with \
         that authority's certificate in SSL_CERT_FILE"
    )]
    Certificate(String),
    /// This system knows nobody who could say who it is.
    #[error(
        "whose certificates to trust isn't known here: {0}; install ca-certificates, or name a file with \
         certificates of authorities in SSL_CERT_FILE"
    )]
    Authorities(String),
    /// It wants to know who asks, or forbids it.
    #[error("access is refused; are the credentials for it in auth.json or config.json right?")]
    Denied,
    /// It doesn't have it.
    #[error("it has no such {0}")]
    Missing(&'static str),
    /// It answers with a failure.
    #[error("it answers {status}: {message}")]
    Failed {
        /// The status of HTTP.
        status: u16,
        /// What it says.
        message: String,
    },
    /// It breaks the protocol.
    #[error("its answer isn't understood: {0}")]
    Answer(String),
    /// It sends more than can be meant.
    #[error("it sends {what} of more than {most} bytes")]
    TooLarge {
        /// What was asked for.
        what: &'static str,
        /// The limit.
        most: u64,
    },
    /// It ends before it has sent what it announced.
    #[error("it sends {received} bytes for a blob of {announced}")]
    Short {
        /// How many came.
        received: u64,
        /// How many the manifest says.
        announced: u64,
    },
    /// It sends something else than what was asked for.
    #[error("what it sends has the digest {actual} and not {expected}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
}

impl RegistryError {
    /// Whether the next attempt may go better.
    pub(super) fn may_pass(&self) -> bool {
        const TOO_MANY_REQUESTS: u16 = 429;
        match self {
            Self::Transport(_) | Self::Short { .. } => true,
            Self::Failed { status, .. } => *status >= 500 || *status == TOO_MANY_REQUESTS,
            _ => false,
        }
    }

    /// That of a status which isn't success; `what` was asked for.
    pub(super) fn of_status(status: u16, what: &'static str, message: &str) -> Self {
        match status {
            401 | 403 => Self::Denied,
            404 => Self::Missing(what),
            _ => Self::Failed { status, message: shown(message) },
        }
    }

    /// What went wrong with a connection, with all its causes.
    pub(super) fn transport(error: &(dyn Error + 'static)) -> Self {
        if let Some(why) = untrusted(error) {
            return Self::Certificate(shown(&why.to_string()));
        }
        Self::Transport(shown(&with_causes(error)))
    }

    /// Why there is no client to ask with: by what we say of it, want of authorities alone.
    pub(super) fn unready(error: &reqwest::Error) -> Self {
        Self::Authorities(shown(&with_causes(error)))
    }

    /// What the client of the protocol says; `what` was asked for.
    pub(super) fn of(error: &OciDistributionError, what: &'static str) -> Self {
        match error {
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => Self::Denied,
            OciDistributionError::RequestError(error) => match error.status() {
                Some(status) => Self::of_status(status.as_u16(), what, &error.to_string()),
                None => Self::transport(error),
            },
            OciDistributionError::IoError(error) => Self::transport(error),
            OciDistributionError::ServerError { code, message, .. } => {
                Self::of_status(*code, what, message)
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                match envelope.errors.first().map(|error| &error.code) {
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => Self::Denied,
                    Some(
                        OciErrorCode::BlobUnknown
                        | OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound,
                    ) => Self::Missing(what),
                    Some(OciErrorCode::Toomanyrequests) => {
                        Self::Failed { status: 429, message: shown(&envelope.to_string()) }
                    }
                    _ => Self::Answer(shown(&envelope.to_string())),
                }
            }
            error => Self::Answer(shown(&error.to_string())),
        }
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What is wrong with a certificate, if that is among the causes of an error.
fn untrusted<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::CertificateError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let mut error = error;
        // What is in an error of input or output isn't its source.
        while let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            error = inner;
        }
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(why);
        }
        cause = error.source();
    }
    None
}

/// The beginning of it, on one line.
fn shown(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(SHOWN).collect()
}
