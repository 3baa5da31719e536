//! The recipe of the guest images, which the program carries: whoever has it needs no checkout.

use std::fs;
use std::io;
use std::path::Path;

macro_rules! carried {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../fixtures/images/", $name)))),*]
    };
}

/// Its files, of fixtures/images: names and contents.
const FILES: [(&str, &str); 13] = carried![
    "build.sh",
    "common.sh",
    "guest-init",
    "initramfs-init",
    "mirror.sh",
    "provide.sh",
    "supervisor/file.c",
    "supervisor/grow.c",
    "supervisor/main.c",
    "supervisor/port.c",
    "supervisor/program.c",
    "supervisor/renew.c",
    "supervisor/supervisor.h",
];

/// Writes them into a directory.
pub(super) fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir(directory.join("supervisor"))?;
    for (name, content) in FILES {
        fs::write(directory.join(name), content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use rstest::rstest;

    use super::FILES;

    /// What isn't carried is for a checkout alone.
    #[rstest]
    fn the_whole_recipe_is_carried() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/images");
        let mut files = BTreeSet::new();
        for (below, prefix) in [("", ""), ("/supervisor", "supervisor/")] {
            for entry in fs::read_dir(format!("{folder}{below}")).expect("a folder").flatten() {
                if entry.file_type().expect("a type").is_file() {
                    files.insert(format!("{prefix}{}", entry.file_name().display()));
                }
            }
        }
        for alone in ["README.md", "compare.sh", "guest-images.nix"] {
            assert!(files.remove(alone), "{alone}");
        }
        assert_eq!(files, FILES.map(|(name, _)| name.to_owned()).into());
    }
}
