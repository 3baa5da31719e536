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
    target: Option<String>,
    size: Option<String>,
}

/// For `create` with an option `-b`, as `qemu-img` takes it: the command that does the same here.
pub(super) fn advice(arguments: &[OsString]) -> Option<Failure> {
    let words: Vec<&str> = arguments.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let (program, rest) = words.split_first()?;
    let create = rest.iter().position(|word| *word == "create")?;
    let told = Told::by(&rest[create + 1..]);
    let base = told.base.as_deref()?;
    let raw = if told.base_format.as_deref() == Some("raw") { "--raw " } else { "" };
    let size = told.size.map(|size| format!("--size {} ", quoted(&size))).unwrap_or_default();
    let target = told.target.as_deref().map_or("TARGET".to_owned(), quoted);
    let program = Path::new(program).file_name()?.to_str()?;
    let command = format!("{program} create {raw}{size}{} {target}", quoted(base));
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
                let place = if told.target.is_none() { &mut told.target } else { &mut told.size };
                *place = Some((*word).to_owned());
                continue;
            };
            // `-bBASE` is `-b BASE`.
            let (name, value) = option.split_at(option.chars().next().map_or(0, char::len_utf8));
            let value = if value.is_empty() { None } else { Some(value) };
            let mut take = || value.or_else(|| words.next().copied()).map(str::to_owned);
            match name {
                "b" => told.base = take(),
                "F" => told.base_format = take(),
                "f" | "o" => drop(take()),
                _ => {}
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

    #[rstest]
    #[case(
        "-f qcow2 -b base.qcow2 -F qcow2 vm.qcow2",
        Some("overlay-pool create base.qcow2 vm.qcow2")
    )]
    #[case(
        "-q -f qcow2 -o lazy_refcounts=on -F raw -b disk.img vm.qcow2 20G",
        Some("overlay-pool create --raw --size 20G disk.img vm.qcow2")
    )]
    #[case("-bbase.qcow2 vm.qcow2", Some("overlay-pool create base.qcow2 vm.qcow2"))]
    #[case("-b it's vm.qcow2", Some("overlay-pool create 'it'\"'\"'s' vm.qcow2"))]
    #[case("-b base.qcow2", Some("overlay-pool create base.qcow2 TARGET"))]
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
