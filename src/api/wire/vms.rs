//! What goes over the wire about VMs that run code.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
#[cfg(feature = "server")]
use utoipa::ToSchema;

use super::{Label, Problem, Source, given, whole};

/// What code is written in, which chooses the VM's base image and what runs the code: `python`,
/// `javascript`, `raw` for the guest's own shell, or another that the server is configured with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema), schema(example = "python"))]
#[serde(transparent)]
pub struct Language(pub String);

impl From<&str> for Language {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// What a program may use up. What isn't given is as the server is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ProgramLimits {
    /// How long it may run, in seconds; then all that runs in the VM is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "server",
        schema(exclusive_minimum = 0, maximum = 86_400, example = 10.0)
    )]
    pub seconds: Option<f64>,
    /// How many bytes of each of its two outputs come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "server",
        schema(minimum = 0, maximum = 4_503_599_627_370_496_i64, example = 1_048_576)
    )]
    pub output_bytes: Option<u64>,
}

/// A program, for a VM that is made for it and destroyed after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// What the code is written in.
    pub language: Language,
    /// The id of a disk of the user's own (`/v1/disks`) that the VM shall have, and that it leaves: an
    /// overlay of the language's base image. The VM boots.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, pattern = r"^[0-9A-Za-z][0-9A-Za-z._:@-]{0,127}$",
        example = "vm-17",
    ))]
    pub disk: Option<Label>,
    /// The size of the VM's disk in bytes: the base image's by default, and never smaller. A `disk` has
    /// its own.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "server",
        schema(minimum = 0, maximum = 4_503_599_627_370_496_i64, example = 4_294_967_296_u64)
    )]
    pub virtual_size: Option<u64>,
    /// The code.
    #[cfg_attr(feature = "server", schema(example = "print('hello from pool')"))]
    pub code: String,
    /// The code's name, which its errors show and it finds before its arguments; else `-c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(example = "script.py"))]
    pub name: Option<String>,
    /// The code's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// Variables of its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// What it reads from its standard input; nothing by default. For input that is no text, or
    /// comes while the program runs, send the part `stdin` of a form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Files of the guest that come back once it has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "server", schema(max_items = 1024, example = json!(["/root/result.png"])))]
    pub files: Vec<String>,
    /// What it may use up.
    #[serde(default)]
    pub limits: ProgramLimits,
}

/// A program, for a VM that is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The code, in the VM's language.
    #[cfg_attr(feature = "server", schema(example = "print('hello from pool')"))]
    pub code: String,
    /// The code's name, which its errors show and it finds before its arguments; else `-c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(example = "script.py"))]
    pub name: Option<String>,
    /// The code's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// Variables of its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// What it reads from its standard input; nothing by default. For input that is no text, or
    /// comes while the program runs, send the part `stdin` of a form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Files of the guest that come back once it has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "server", schema(max_items = 1024, example = json!(["/root/result.png"])))]
    pub files: Vec<String>,
    /// What it may use up.
    #[serde(default)]
    pub limits: ProgramLimits,
}

impl ExecuteRequest {
    /// What VM it is for, and the rest.
    #[must_use]
    pub fn split(self) -> (VmRequest, RunRequest) {
        let Self { language, disk, virtual_size, .. } = self;
        let vm = VmRequest { language, idle_seconds: None, disk, virtual_size };
        let Self { code, name, arguments, environment, stdin, files, limits, .. } = self;
        (vm, RunRequest { code, name, arguments, environment, stdin, files, limits })
    }
}

impl RunRequest {
    /// The same for a VM that is made for it.
    #[must_use]
    pub fn of(self, language: impl Into<Language>) -> ExecuteRequest {
        let Self { code, name, arguments, environment, stdin, files, limits } = self;
        ExecuteRequest {
            language: language.into(),
            disk: None,
            virtual_size: None,
            code,
            name,
            arguments,
            environment,
            stdin,
            files,
            limits,
        }
    }
}

/// How a VM came to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum VmStart {
    /// Its kernel booted.
    Booted,
    /// It was resumed from a saved state.
    Resumed,
    /// It was resumed before anybody asked for it, and waited.
    Warm,
}

/// How long each part of a VM's creation took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
pub struct PhaseSeconds {
    /// Getting the disk from the pool.
    pub overlay: f64,
    /// Starting QEMU.
    pub spawn: f64,
    /// Booting, or loading a saved state.
    pub boot: f64,
    /// Making the guest one of its own.
    pub renew: f64,
}

/// A VM that its owner keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
pub struct VmInfo {
    /// The VM's id, which is its hostname too.
    #[cfg_attr(feature = "server", schema(example = "vm-0123456789abcdef0123456789abcdef"))]
    pub id: String,
    /// What its code is written in.
    pub language: Language,
    /// What it is doing: `ready`, `executing` or, on its way out, `destroying` and `destroyed`.
    #[cfg_attr(feature = "server", schema(example = "ready"))]
    pub state: String,
    /// How it came to life.
    pub start: VmStart,
    /// The user that it belongs to.
    #[cfg_attr(feature = "server", schema(example = 1000))]
    pub uid: u32,
    /// After how many seconds without a program it is destroyed.
    #[cfg_attr(feature = "server", schema(example = 300.0))]
    pub idle_seconds: f64,
    /// The id of its user's disk that it has, if it has one of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "vm-17"))]
    pub disk: Option<Label>,
}

/// What VM is to be made and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmRequest {
    /// What its code is written in.
    pub language: Language,
    /// After how many seconds without a program it is destroyed; never later than the server is
    /// set up to, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "server",
        schema(exclusive_minimum = 0, maximum = 86_400, example = 300.0)
    )]
    pub idle_seconds: Option<f64>,
    /// The id of a disk of the user's own (`/v1/disks`) that the VM shall have, and that it leaves: an
    /// overlay of the language's base image. The VM boots.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, pattern = r"^[0-9A-Za-z][0-9A-Za-z._:@-]{0,127}$",
        example = "vm-17",
    ))]
    pub disk: Option<Label>,
    /// The size of the VM's disk in bytes: the base image's by default, and never smaller. A `disk` has
    /// its own.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "server",
        schema(minimum = 0, maximum = 4_503_599_627_370_496_i64, example = 4_294_967_296_u64)
    )]
    pub virtual_size: Option<u64>,
}

/// Bytes, as text if they are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// The bytes as text.
    Text(String),
    /// Bytes that aren't UTF-8, perhaps since they end within a character.
    Base64(String),
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Base64(STANDARD.encode(error.as_bytes())),
        }
    }
}

impl Data {
    /// The bytes; none if this is no base 64.
    #[must_use]
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.into_bytes()),
            Self::Base64(text) => STANDARD.decode(text).ok(),
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// By itself.
    Exit,
    /// By a signal.
    Signal,
    /// It ran for too long, and was killed with all that ran in the VM.
    TimedOut,
}

/// What a client is told while its program runs: one JSON object a line. The last one is `end` or
/// `failed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The VM is there.
    Begun {
        /// The VM's id.
        vm: String,
        /// How it came to life.
        start: VmStart,
        /// Where its disk came from; left out if it is one of its user's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<Source>,
        /// How long each part of its creation took.
        seconds: PhaseSeconds,
    },
    /// The program wrote this to its standard output.
    Stdout {
        /// What it wrote.
        data: Data,
    },
    /// The program wrote this to its standard error.
    Stderr {
        /// What it wrote.
        data: Data,
    },
    /// A file that was asked for.
    File {
        /// Its path.
        path: String,
        /// What is in it; none if it can't be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Data>,
        /// Why it can't be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The program has ended.
    End {
        /// How it ended.
        reason: EndReason,
        /// Its exit code as shells give it: 128 and more for a signal, 124 if its time was over.
        exit_code: i32,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// Whether there was more standard output than came.
        stdout_truncated: bool,
        /// Whether there was more standard error than came.
        stderr_truncated: bool,
        /// Whether the VM's disk refused writes, since it has reached its limit.
        disk_failed: bool,
        /// How long it took, from handing the code over to its end.
        seconds: f64,
    },
    /// The program could not be run to its end.
    Failed {
        /// Why.
        problem: Problem,
    },
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(b"plain \xc3\xa4".to_vec(), json!({ "text": "plain ä" }))]
    #[case(b"half \xc3".to_vec(), json!({ "base64": "aGFsZiDD" }))]
    #[case(Vec::new(), json!({ "text": "" }))]
    fn any_bytes_go_over_the_wire(#[case] bytes: Vec<u8>, #[case] expected: serde_json::Value) {
        let data = Data::from(bytes.clone());
        assert_eq!(serde_json::to_value(&data).expect("JSON"), expected);
        let back: Data = serde_json::from_value(expected).expect("data");
        assert_eq!(back.into_bytes(), Some(bytes));
    }

    #[rstest]
    fn an_end_is_flat() {
        let end = Event::End {
            reason: EndReason::Signal,
            exit_code: 137,
            signal: Some(9),
            stdout_truncated: false,
            stderr_truncated: true,
            disk_failed: false,
            seconds: 0.5,
        };
        let json = json!({
            "event": "end", "reason": "signal", "exit_code": 137, "signal": 9,
            "stdout_truncated": false, "stderr_truncated": true, "disk_failed": false,
            "seconds": 0.5,
        });
        assert_eq!(serde_json::to_value(&end).expect("JSON"), json);
        assert_eq!(serde_json::from_value::<Event>(json).expect("an event"), end);
    }

    #[rstest]
    #[case(json!({ "language": "python", "code": "", "colour": "red" }))]
    #[case(json!({ "code": "" }))]
    #[case(json!({ "language": ["python"], "code": "" }))]
    #[case(json!({ "language": "python", "code": "", "limits": { "second": 1 } }))]
    fn what_nobody_understands_is_refused(#[case] request: serde_json::Value) {
        serde_json::from_value::<ExecuteRequest>(request).expect_err("no request");
    }
}
