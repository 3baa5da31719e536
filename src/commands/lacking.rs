//! Commands and options that this program was built without.

use std::ffi::OsString;

use super::exit::Exit;
use super::failure::Failure;

/// What is typed, which of Cargo's features it needs, and whether that is on.
const PARTS: [(&[&str], &str, bool); 7] = [
    (&["csi"], "csi", cfg!(feature = "csi")),
    (&["images", "pull"], "images", cfg!(feature = "images")),
    (&["images", "ls"], "images", cfg!(feature = "images")),
    (&["images", "prune"], "images", cfg!(feature = "images")),
    (&["images", "push"], "images", cfg!(feature = "images")),
    (&["serve", "--image"], "images", cfg!(feature = "images")),
    (&["serve", "--prune-by-leases"], "images", cfg!(feature = "images")),
];

/// For arguments that aren't understood: that another build would.
pub(super) fn advice(arguments: &[OsString]) -> Option<Failure> {
    let typed = |word: &&str| {
        arguments.iter().skip(1).any(|argument| {
            let argument = argument.to_string_lossy();
            argument == *word || argument.starts_with(&format!("{word}="))
        })
    };
    let (words, feature, _) =
        PARTS.iter().find(|(words, _, is_on)| !is_on && words.iter().all(typed))?;
    let cause = format!("this overlay-pool was built without {}", words.join(" "));
    let advice = format!("install one with it: cargo install --features {feature}, as in README");
    Some(Failure::new(Exit::Usage, cause, &advice))
}
