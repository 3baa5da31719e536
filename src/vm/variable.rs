//! A variable of the environment that settings come from.

use std::ffi::OsString;
use std::path::Path;

/// A variable of the environment whose value can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?}: {expected}")]
pub struct SettingsError {
    /// The variable.
    pub variable: &'static str,
    /// Its value.
    pub value: OsString,
    /// What it should be.
    pub expected: String,
}

pub(super) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "give a whole number".to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "it parses as the others do")]
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("give on or off".to_owned()),
    }
}

/// A variable, and its value if it is set.
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) value: Option<OsString>,
}

impl Variable {
    pub(super) fn parse<T>(
        self,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let Self { name: variable, value } = self;
        let Some(value) = value else { return Ok(None) };
        let parsed = match value.to_str() {
            Some(text) => parse(text),
            None => Err("not UTF-8".to_owned()),
        };
        parsed.map(Some).map_err(|expected| SettingsError { variable, value, expected })
    }

    /// Takes what is in the file that it names.
    pub(super) fn read<T, E: ToString>(
        self,
        read: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<Option<T>, SettingsError> {
        let Self { name: variable, value } = self;
        let Some(value) = value else { return Ok(None) };
        read(value.as_ref()).map(Some).map_err(|error| {
            let expected = error.to_string();
            SettingsError { variable, value, expected }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::on_off;

    #[test]
    fn a_switch_is_on_or_off() {
        assert_eq!((on_off("on"), on_off("off")), (Ok(true), Ok(false)));
        on_off("yes").expect_err("neither");
    }
}
