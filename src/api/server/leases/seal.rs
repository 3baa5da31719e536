//! What tells a directory of records from any other that its path may lead to.

use std::io;

use crate::place::Store;

/// Its file, which is written last. No record is called so: those begin with a user's number.
pub(super) const FILE: &str = "seal";

/// A directory of records, by a word of its own. One that has none isn't known to have all of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal(String);

impl Seal {
    pub(super) fn new() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The seal of a directory; none if it has none.
    pub(super) fn of(store: &Store) -> io::Result<Option<Self>> {
        match store.read(FILE) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes).ok();
                let is_one = |text: &String| {
                    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
                };
                Ok(text.filter(is_one).map(Self))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn put(&self, store: &Store) -> io::Result<()> {
        store.write(FILE, self.0.as_bytes())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}
