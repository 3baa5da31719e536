//! Which images a node has, as a file that node-feature-discovery makes labels of: so that a Pod can
//! ask for a node with its image.
//!
//! A feature file has a line for each label, `PREFIX/NAME=VALUE`; one over 64 KiB is passed over, as are
//! files whose names begin with a dot, and it has to be there whole from one moment to the next.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Before the name of an image.
const PREFIX: &str = "image.overlay-pool.csi/";
/// How long a label's name may be.
const LONGEST: usize = 63;
/// How many bytes a feature file may have.
const LARGEST: usize = 64 << 10;
/// What is written beside what doesn't fit.
const ROOM: usize = 1 << 10;
/// How many digits of a digest its label has.
const DIGITS: usize = 32;
/// How many files and directories are looked at.
const MOST: usize = 100_000;
/// Where pulled images are, to which their names lead.
const PULLED: &str = "sha256";

/// A file of the images that there are.
#[derive(Clone, Debug)]
pub(super) struct ImageLabels {
    images: PathBuf,
    file: PathBuf,
}

impl ImageLabels {
    pub(super) fn new(images: PathBuf, file: PathBuf) -> Self {
        Self { images, file }
    }

    /// Writes the file, unless it is as it shall be.
    pub(super) fn renew(&self) -> io::Result<()> {
        let said = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"))
        };
        let text = text(&found(&self.images).map_err(said(&self.images))?);
        if fs::read(&self.file).is_ok_and(|written| written == text.as_bytes()) {
            return Ok(());
        }
        self.write(&text).map_err(said(&self.file))?;
        tracing::info!(file = %self.file.display(), "the node's images are told");
        Ok(())
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.file.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        let draft = self.file.with_file_name(name);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&draft, &self.file));
        written.inspect_err(|_| _ = fs::remove_file(&draft))
    }
}

/// The names of labels, each with how many images have it, and how many have none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    labels: BTreeMap<String, usize>,
    nameless: usize,
}

fn found(images: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let mut left = MOST;
    let mut directories = vec![images.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            // Removed meanwhile, or not there yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            left = left.checked_sub(1).ok_or_else(|| {
                io::Error::other(format!("more than {MOST} files and directories"))
            })?;
            let Ok(kind) = path.symlink_metadata() else { continue };
            if kind.is_dir() {
                directories.push(path);
            } else if path.is_file() && is_image(&path) {
                let pulled = fs::read_link(&path).is_ok_and(|to| {
                    to.parent().and_then(Path::file_name).is_some_and(|name| name == PULLED)
                });
                let below = path.strip_prefix(images).unwrap_or(&path);
                match label(below, pulled) {
                    Some(label) => *found.labels.entry(label).or_default() += 1,
                    None => found.nameless += 1,
                }
            }
        }
    }
    Ok(found)
}

fn is_image(path: &Path) -> bool {
    ["qcow2", "raw", "img"]
        .iter()
        .any(|known| path.extension().is_some_and(|found| found == *known))
}

/// What the label of an image is called: as Pods name it, with `_` for each slash and colon, and by
/// digest `sha256-` and the first digits. None if no label may be called so.
fn label(below: &Path, pulled: bool) -> Option<String> {
    let name = if pulled { below.with_extension("") } else { below.to_owned() };
    let name = match name.file_name()?.to_str()?.split_at_checked("sha256-".len() + DIGITS) {
        Some((digest, _)) if pulled && digest.starts_with("sha256-") => digest.to_owned(),
        _ => name.to_str()?.replace(['/', ':'], "_"),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = [name.bytes().next()?, name.bytes().next_back()?];
    let may_be = name.len() <= LONGEST
        && name.bytes().all(is_plain)
        && ends.iter().all(u8::is_ascii_alphanumeric);
    may_be.then_some(name)
}

fn text(Found { labels, nameless }: &Found) -> String {
    let mut text = "# The images of overlay-pool that this node has.\n".to_owned();
    let mut left_out = *nameless;
    for (label, count) in labels {
        let line = format!("{PREFIX}{label}=true\n");
        // Nobody could tell which of several is there.
        if *count > 1 || text.len() + line.len() > LARGEST - ROOM {
            left_out += count;
        } else {
            text += &line;
        }
    }
    if left_out > 0 {
        let why = "their names are too long for a label, or alike in it, or there are too many";
        let _ = writeln!(text, "# Without a label: {left_out}; {why}.");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rstest::rstest;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[rstest]
    #[case::file("python.qcow2", false, Some("python.qcow2"))]
    #[case::below("team/python.qcow2", false, Some("team_python.qcow2"))]
    #[case::tag("ghcr.io/acme/python/3.13.qcow2", true, Some("ghcr.io_acme_python_3.13"))]
    #[case::port("localhost:5000/python/3.qcow2", true, Some("localhost_5000_python_3"))]
    #[case::ends_oddly("ghcr.io/acme/python/3_.qcow2", true, None)]
    #[case::begins_oddly("_python.qcow2", false, None)]
    #[case::space("my python.qcow2", false, None)]
    #[case::line("python\nkubernetes.io/os=plan9.qcow2", false, None)]
    fn a_label_is_called_as_pods_name_the_image(
        #[case] below: &str,
        #[case] pulled: bool,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(label(Path::new(below), pulled).as_deref(), expected);
    }

    #[test]
    fn digests_and_long_names() {
        let below = format!("ghcr.io/acme/python/sha256-{HEX}.qcow2");
        let expected = format!("sha256-{}", &HEX[..32]);
        assert_eq!(label(Path::new(&below), true), Some(expected));
        let long = "a".repeat(LONGEST);
        assert_eq!(label(Path::new(&long), false), Some(long.clone()));
        assert_eq!(label(Path::new(&(long + "a")), false), None);
    }

    #[test]
    fn what_is_there_is_told_and_what_is_not_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let images = dir.path().join("images");
        let file = dir.path().join("labels");
        let labels = ImageLabels::new(images.clone(), file.clone());
        let told = || {
            labels.renew().expect("it is written");
            let text = fs::read_to_string(&file).expect("the file");
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert!(told().is_empty(), "there is no directory yet");
        fs::create_dir_all(images.join("ghcr.io/acme/python")).expect("folders");
        fs::create_dir_all(images.join("sha256")).expect("a folder");
        fs::write(images.join("sha256").join(HEX), "disk").expect("a file");
        let to = |hex: &str| format!("../../../sha256/{hex}");
        symlink(to(HEX), images.join("ghcr.io/acme/python/3.qcow2")).expect("a link");
        symlink(to(&HEX.replace('e', "0")), images.join("ghcr.io/acme/python/4.qcow2"))
            .expect("a link that leads nowhere");
        fs::write(images.join("plain.qcow2"), "disk").expect("a file");
        fs::write(images.join("notes.txt"), "text").expect("a file");
        let all = ["ghcr.io_acme_python_3", "plain.qcow2"];
        assert_eq!(told(), all.map(|name| format!("image.overlay-pool.csi/{name}=true")));
        fs::remove_file(images.join("plain.qcow2")).expect("it is removed");
        assert_eq!(told(), ["image.overlay-pool.csi/ghcr.io_acme_python_3=true"]);
        // Somebody else's removal is mended, and nothing is left beside it.
        fs::remove_file(&file).expect("it is removed");
        assert_eq!(told().len(), 1);
        let names = fs::read_dir(dir.path()).expect("a look").count();
        assert_eq!(names, 2, "the images and the file");
    }

    /// One that a driver left which died while it wrote.
    #[test]
    fn a_draft_that_is_there_is_no_obstacle() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(".labels"), "half").expect("a file");
        let file = dir.path().join("labels");
        ImageLabels::new(dir.path().join("images"), file.clone()).renew().expect("it is written");
        assert!(file.is_file() && !dir.path().join(".labels").exists());
    }

    #[test]
    fn alike_names_have_none_and_the_file_stays_small() {
        let names = |count: usize| (0..count).map(|number| (format!("{number:0>60}"), 1)).collect();
        let found = Found { labels: names(2_000), nameless: 3 };
        let text = text(&found);
        let told = text.lines().filter(|line| line.starts_with(PREFIX)).count();
        assert!(text.len() <= LARGEST && told > 500, "{told} of {}", text.len());
        let without = format!("# Without a label: {}; ", 2_003 - told);
        assert!(text.contains(&without), "{text}");
        let alike = Found { labels: [("a_b.qcow2".to_owned(), 2)].into(), nameless: 0 };
        assert!(!super::text(&alike).contains(PREFIX));
    }
}
