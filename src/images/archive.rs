//! A layer of a container disk: a tar archive, with the disk as the one file below `/disk`.
//!
//! It is untrusted. Headers are parsed by the crate `tar`; what it would read without a bound, the
//! long names and extended headers, is bounded here.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use tar::{EntryType, Header, PaxExtensions};

/// Of an archive's header, and what contents are padded to.
const BLOCK: u64 = 512;
/// How many bytes a long name or an extended header may have.
const MAX_EXTENSION: u64 = 64 << 10;
/// How many entries a layer may have.
const MAX_ENTRIES: usize = 100_000;
const DIRECTORY: &str = "disk";

/// Why a layer holds no disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The archive is damaged, or ends too soon.
    #[error("it is damaged: {0}")]
    Io(#[from] io::Error),
    /// It has too many entries.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// A long name or an extended header is too long.
    #[error("a header in it has {0} bytes")]
    LongHeader(u64),
    /// It has several files where one is expected.
    #[error("it has several files below /disk, {one} and {other}; keep one of them")]
    Several {
        /// The first.
        one: String,
        /// Another.
        other: String,
    },
    /// What is there is no plain file.
    #[error("{0} in it is no plain file")]
    NotAFile(String),
    /// It unpacks to more than an image may have.
    #[error("it unpacks to more than {0} bytes")]
    TooLarge(u64),
}

/// What an archive's entry is.
struct Entry {
    path: PathBuf,
    size: u64,
    kind: EntryType,
}

/// Gives the file below `/disk` of an archive to `take`, with its size; none if there is none. No more
/// than `most` bytes are read in all.
pub(super) fn disk<T>(
    archive: impl Read,
    most: u64,
    mut take: impl FnMut(&mut dyn Read, u64) -> io::Result<T>,
) -> Result<Option<T>, ArchiveError> {
    let mut archive = Limited { archive, left: most, is_over: false };
    let mut found: Option<(PathBuf, T)> = None;
    let walked = walk(&mut archive, |entry, content| {
        if !is_below_disk(&entry.path) || entry.kind.is_dir() {
            return Ok(());
        }
        let name = entry.path.display().to_string();
        if !entry.kind.is_file() {
            return Err(ArchiveError::NotAFile(name));
        }
        if let Some((one, _)) = &found {
            return Err(ArchiveError::Several { one: one.display().to_string(), other: name });
        }
        let taken = take(content, entry.size)?;
        found = Some((entry.path.clone(), taken));
        Ok(())
    });
    match walked {
        Err(_) if archive.is_over => Err(ArchiveError::TooLarge(most)),
        walked => walked.map(|()| found.map(|(_, taken)| taken)),
    }
}

fn is_below_disk(path: &Path) -> bool {
    let mut parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    parts.next() == Some(Component::Normal(DIRECTORY.as_ref())) && parts.next().is_some()
}

/// Reads all entries; `look` may read of each one's content what it likes.
fn walk(
    archive: &mut impl Read,
    mut look: impl FnMut(&Entry, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut long_name = None;
    let (mut pax_path, mut pax_size) = (None, None);
    for _ in 0..MAX_ENTRIES {
        let Some(header) = header(archive)? else { return Ok(()) };
        let size = pax_size.take().map_or_else(|| header.entry_size(), Ok)?;
        let mut content = archive.by_ref().take(size);
        match header.entry_type() {
            EntryType::GNULongName => long_name = Some(path_of(&extension(&mut content, size)?)),
            EntryType::XHeader => {
                let bytes = extension(&mut content, size)?;
                for record in PaxExtensions::new(&bytes) {
                    let record = record?;
                    match record.key_bytes() {
                        b"path" => pax_path = Some(path_of(record.value_bytes())),
                        b"size" => pax_size = Some(number(record.value_bytes())?),
                        _ => {}
                    }
                }
            }
            // About all that follow, or about a link's target: neither matters.
            EntryType::XGlobalHeader | EntryType::GNULongLink => {}
            kind => {
                let own = path_of(&header.path_bytes());
                let path = pax_path.take().or(long_name.take()).unwrap_or(own);
                look(&Entry { path, size, kind }, &mut content)?;
            }
        }
        let left = content.limit() + size.next_multiple_of(BLOCK) - size;
        skip(archive, left)?;
    }
    Err(ArchiveError::TooMany)
}

/// The next header; none at the end, which a block of zeros marks, or that of the file.
fn header(archive: &mut impl Read) -> Result<Option<Header>, ArchiveError> {
    let mut block = Vec::new();
    archive.by_ref().take(BLOCK).read_to_end(&mut block)?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let damaged = |why: &str| ArchiveError::Io(io::Error::new(io::ErrorKind::InvalidData, why));
    if block.len() as u64 != BLOCK {
        return Err(damaged("it ends within a header"));
    }
    let header = Header::from_byte_slice(&block);
    // As POSIX counts it: with blanks in place of the checksum itself.
    let sum: u32 = (0..)
        .zip(&block)
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    if header.cksum()? != sum {
        return Err(damaged("a header's checksum is wrong"));
    }
    Ok(Some(header.clone()))
}

fn extension(content: &mut impl Read, size: u64) -> Result<Vec<u8>, ArchiveError> {
    if size > MAX_EXTENSION {
        return Err(ArchiveError::LongHeader(size));
    }
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn skip(archive: &mut impl Read, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut archive.by_ref().take(bytes), &mut io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes[..end]))
}

fn number(bytes: &[u8]) -> io::Result<u64> {
    let parsed = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a size is no number"))
}

/// What is read, up to a limit.
struct Limited<R> {
    archive: R,
    left: u64,
    is_over: bool,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(buffer)?;
        let Some(left) = self.left.checked_sub(read as u64) else {
            self.is_over = true;
            return Err(io::Error::other("too much"));
        };
        self.left = left;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};
    use std::process::Command;

    use rstest::rstest;
    use tar::{Builder, EntryType, Header};

    use super::{ArchiveError, disk};

    const MOST: u64 = 1 << 20;

    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            if kind.is_symlink() {
                header.set_link_name("/etc/passwd").expect("a link");
            }
            builder.append_data(&mut header, path, *content).expect("an entry");
        }
        builder.into_inner().expect("an archive")
    }

    fn found(archive: &[u8], most: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        disk(archive, most, |content, size| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            assert_eq!(bytes.len() as u64, size);
            Ok(bytes)
        })
    }

    #[rstest]
    #[case("disk/image.qcow2", true)]
    #[case("./disk/image.qcow2", true)]
    #[case("disk/below/image", true)]
    #[case("disks/image", false)]
    #[case("disk", false)]
    #[case("etc/disk/image", false)]
    fn the_file_below_disk_is_taken(#[case] path: &str, #[case] taken: bool) {
        let archive = archive(&[
            ("etc/passwd", EntryType::Regular, b"root"),
            (path, EntryType::Regular, b"image"),
            ("usr/lib", EntryType::Regular, &[1; 700]),
        ]);
        let expected = taken.then(|| b"image".to_vec());
        assert_eq!(found(&archive, MOST).expect("an archive"), expected);
    }

    /// A second opinion: archives by GNU tar, in each of its formats.
    #[rstest]
    fn archives_of_gnu_tar_are_understood(#[values("v7", "ustar", "gnu", "pax")] format: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        // A name of more than 100 bytes is written in another way in each of them.
        let below = if format == "v7" { "below".to_owned() } else { "b".repeat(90) };
        let directory = folder.path().join("disk").join(below);
        std::fs::create_dir_all(&directory).expect("a folder");
        std::fs::write(directory.join("image.qcow2"), [7; 1000]).expect("a file");
        let format = format!("--format={format}");
        let written =
            Command::new("tar").args([&format, "-c", "disk"]).current_dir(&folder).output();
        let written = written.expect("tar runs");
        assert!(written.status.success(), "{written:?}");
        assert_eq!(found(&written.stdout, MOST).expect("an archive"), Some(vec![7; 1000]));
    }

    #[rstest]
    fn what_is_ambiguous_or_no_file_is_refused() {
        let one = ("disk/1", EntryType::Regular, &b"1"[..]);
        let two = archive(&[one, ("disk/2", EntryType::Regular, b"2")]);
        assert!(matches!(found(&two, MOST), Err(ArchiveError::Several { .. })));
        let link = archive(&[("disk/1", EntryType::Symlink, b"")]);
        assert!(matches!(found(&link, MOST), Err(ArchiveError::NotAFile(_))));
    }

    #[rstest]
    fn what_unpacks_to_too_much_is_refused() {
        let archive = archive(&[("junk", EntryType::Regular, &vec![0; 100_000])]);
        assert!(matches!(found(&archive, 50_000), Err(ArchiveError::TooLarge(50_000))));
        assert!(matches!(found(&archive, MOST), Ok(None)));
    }

    #[rstest]
    fn a_long_header_is_not_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let endless = header.as_bytes().chain(io::repeat(b'a'));
        let refused = disk(endless, MOST, |_, _| Ok(()));
        assert!(matches!(refused, Err(ArchiveError::LongHeader(_))), "{refused:?}");
    }

    /// Whatever ends it or is damaged in it: an error or nothing, never a panic, and never a disk
    /// that isn't whole.
    #[rstest]
    fn a_damaged_archive_gives_no_other_disk() {
        let content = vec![3; 1500];
        let whole = archive(&[("disk/image", EntryType::Regular, &content)]);
        for length in 0..whole.len() {
            if let Ok(Some(taken)) = disk(&whole[..length], MOST, |content, _| {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes).map(|_| bytes)
            }) {
                assert_eq!(taken, content, "cut off at {length}");
            }
        }
        for at in 0..512 {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            assert!(!matches!(found(&damaged, MOST), Ok(Some(_))), "damaged at {at}");
        }
    }
}
