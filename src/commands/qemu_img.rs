//! What people type who come from `qemu-img create`.

use std::ffi::OsString;
use std::path::Path;

use super::exit::Exit;
use super::failure::Failure;

/// What a `qemu-img create` was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    base: Option<String>,
    base_format: Option<String>,
    /// The target, and its size.
    words: Vec<String>,
    /// Whether there was `-o`.
    has_options: bool,
    /// Whether there was what isn't qemu-img's, or not known here.
    has_others: bool,
}

/// For `create` with an option `-b`, as `qemu-img` takes it: the command that does the same here, or
/// the form of such a command if it isn't all understood.
pub(super) fn advice(arguments: &[OsString]) -> Option<Failure> {
    let words: Vec<&str> = arguments.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let (program, rest) = words.split_first()?;
    let program = Path::new(program).file_name()?.to_str()?;
    let create = rest.iter().position(|word| *word == "create")?;
    let told = Told::by(&rest[create + 1..]);
    let base = told.base.as_deref()?;
    let command = if told.has_others || told.words.len() > 2 {
        format!("{program} create BASE TARGET, and see create --help")
    } else {
        let mut words = told.words.iter().map(|word| quoted(word));
        let target = words.next().unwrap_or_else(|| "TARGET".to_owned());
        let size = words.next().map(|size| format!("--size {size} ")).unwrap_or_default();
        let raw = if told.base_format.as_deref() == Some("raw") { "--raw " } else { "" };
        let profile = if told.has_options { ", where --profile stands for -o" } else { "" };
        format!("{program} create {raw}{size}{} {target}{profile}", quoted(base))
    };
    let cause = "-b is qemu-img's: here the base image comes first, and then its overlays";
    Some(Failure::new(Exit::Usage, cause, &format!("say {command}")))
}

impl Told {
    fn by(words: &[&str]) -> Self {
        let mut told = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let option = word.strip_prefix('-').filter(|rest| !rest.is_empty());
            let Some(option) = option else {
                told.words.push((*word).to_owned());
                continue;
            };
            // `-bBASE` is `-b BASE`.
            let (name, value) = option.split_at(option.chars().next().map_or(0, char::len_utf8));
            let value =
                Some(value.strip_prefix('=').unwrap_or(value)).filter(|its| !its.is_empty());
            let mut take = || value.or_else(|| words.next().copied()).map(str::to_owned);
            match name {
                "b" => told.base = take(),
                "F" => told.base_format = take(),
                "f" => told.has_others |= take().is_none_or(|format| format != "qcow2"),
                "o" => told.has_options |= take().is_some(),
                "q" => {}
                _ => told.has_others = true,
            }
        }
        told
    }
}

/// A word as a shell takes it, without a backslash, which a message would escape.
fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_alphanumeric() || "/._-+:=@,%".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\"'\"'"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::advice;

    /// Where a command might be another one than was meant.
    const THE_FORM: &str = "overlay-pool create BASE TARGET, and see create --help";

    #[rstest]
    #[case(
        "-f qcow2 -b base.qcow2 -F qcow2 vm.qcow2",
        Some("overlay-pool create base.qcow2 vm.qcow2")
    )]
    #[case(
        "-q -f qcow2 -o lazy_refcounts=on -F raw -b disk.img vm.qcow2 20G",
        Some(
            "overlay-pool create --raw --size 20G disk.img vm.qcow2, where --profile stands for -o"
        )
    )]
    #[case("-bbase.qcow2 vm.qcow2", Some("overlay-pool create base.qcow2 vm.qcow2"))]
    #[case("-b=base.qcow2 vm.qcow2", Some("overlay-pool create base.qcow2 vm.qcow2"))]
    #[case("--size 20G -b base.qcow2 vm.qcow2", Some(THE_FORM))]
    #[case("--json -b base.qcow2 vm.qcow2", Some(THE_FORM))]
    #[case("-u -b base.qcow2 vm.qcow2", Some(THE_FORM))]
    #[case("-f raw -b base.qcow2 vm.raw", Some(THE_FORM))]
    #[case("-b base.qcow2 vm.qcow2 1G vm-2.qcow2", Some(THE_FORM))]
    #[case("-b it's vm.qcow2", Some("overlay-pool create 'it'\"'\"'s' vm.qcow2"))]
    #[case("-b base.qcow2", Some("overlay-pool create base.qcow2 TARGET"))]
    #[case("-F raw -b disk.img", Some("overlay-pool create --raw disk.img TARGET"))]
    #[case("-b", None)]
    #[case("--raw base.qcow2", None)]
    fn the_same_is_said_in_our_words(#[case] told: &str, #[case] ours: Option<&str>) {
        let arguments = ["/bin/overlay-pool", "create"].into_iter().chain(told.split(' '));
        let arguments: Vec<_> = arguments.map(Into::into).collect();
        let said = advice(&arguments).map(|failure| failure.to_string());
        let command = said.as_deref().and_then(|said| said.split_once("; say "));
        assert_eq!(command.map(|(_, command)| command), ours);
    }
}
