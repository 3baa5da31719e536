//! SHA-256 digests as OCI writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};

use crate::hex::hex;

/// A SHA-256 digest: `sha256:` and 64 lower-case hexadecimal digits (OCI image specification,
/// "Digests"). No other algorithm is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is no [`Digest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: it must be sha256: and 64 lower-case hexadecimal digits")]
pub struct DigestError(String);

/// How much of a text that is no digest is repeated.
const SHOWN: usize = 80;

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// What a hasher has come to.
    pub(super) fn by(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The digits alone, which is the name of its file.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// That of digits alone.
    pub(super) fn from_hex(digits: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 64 || !digits.bytes().all(is_digit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = text.strip_prefix("sha256:");
        let refused = || DigestError(text.chars().take(SHOWN).collect());
        digits.and_then(Self::from_hex).ok_or_else(refused)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let text = String::deserialize(value)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Digest;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[rstest]
    fn a_digest_is_written_as_it_is_read() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
    }

    /// A name of a file is made of it.
    #[rstest]
    #[case::no_algorithm(&EMPTY[7..])]
    #[case::another_algorithm("md5:d41d8cd98f00b204e9800998ecf8427e")]
    #[case::upper_case("sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855")]
    #[case::short("sha256:e3b0")]
    #[case::path("sha256:../../../../../../../../../../../../../../../../../../../etc/passwd")]
    #[case::sign("sha256:+3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    fn what_is_no_digest_is_refused(#[case] text: &str) {
        assert!(text.parse::<Digest>().is_err());
    }
}
