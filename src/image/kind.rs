//! What a file is that isn't a qcow2 image, as far as its first bytes tell.

use std::fmt;

use super::layout::MAGIC;

/// A kind of file that people have at hand in place of a qcow2 or a raw image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// That of QEMU.
    Qcow2,
    /// That of `VMware`.
    Vmdk,
    /// That of `VirtualBox`.
    Vdi,
    /// That of Hyper-V.
    Vhdx,
    /// That of Virtual PC.
    Vhd,
    /// A CD or DVD.
    Iso,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by xz.
    Xz,
    /// Compressed by Zstandard.
    Zstd,
    /// Compressed by bzip2.
    Bzip2,
    /// An archive.
    Zip,
    /// An archive; an appliance (OVA) is one too.
    Tar,
    /// A web page.
    Html,
    /// What git keeps in place of a large file.
    LfsPointer,
}

/// Where each kind has which bytes.
const MARKS: [(Kind, usize, &[u8]); 16] = [
    (Kind::Qcow2, 0, &MAGIC),
    (Kind::Vmdk, 0, b"KDMV"),
    (Kind::Vmdk, 0, b"COWD"),
    (Kind::Vmdk, 0, b"# Disk DescriptorFile"),
    (Kind::Vdi, 0x40, b"\x7f\x10\xda\xbe"),
    (Kind::Vhdx, 0, b"vhdxfile"),
    (Kind::Vhd, 0, b"conectix"),
    (Kind::Iso, 0x8001, b"CD001"),
    (Kind::Gzip, 0, b"\x1f\x8b\x08"),
    (Kind::Xz, 0, b"\xfd7zXZ\0"),
    (Kind::Zstd, 0, b"\x28\xb5\x2f\xfd"),
    (Kind::Bzip2, 0, b"BZh"),
    (Kind::Zip, 0, b"PK\x03\x04"),
    (Kind::Tar, 257, b"ustar"),
    (Kind::LfsPointer, 0, b"version https://git-lfs.github.com/spec/"),
    (Kind::LfsPointer, 0, b"version https://hawser.github.com/spec/"),
];

impl Kind {
    /// What a file is that starts with these bytes; none if that can't be told, as with any raw
    /// image.
    #[must_use]
    pub fn of(start: &[u8]) -> Option<Self> {
        let has =
            |at: usize, mark: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(mark));
        let marked = MARKS.iter().find(|(_, at, mark)| has(*at, mark)).map(|(kind, ..)| *kind);
        marked.or_else(|| is_html(start).then_some(Self::Html))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "a qcow2 image",
            Self::Vmdk => "a VMDK image",
            Self::Vdi => "a VDI image",
            Self::Vhdx => "a VHDX image",
            Self::Vhd => "a VHD image",
            Self::Iso => "a CD or DVD image (ISO 9660)",
            Self::Gzip => "a gzip file",
            Self::Xz => "an xz file",
            Self::Zstd => "a zstd file",
            Self::Bzip2 => "a bzip2 file",
            Self::Zip => "a zip archive",
            Self::Tar => "a tar archive",
            Self::Html => "a web page",
            Self::LfsPointer => "a git-lfs pointer",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Qcow2 => "use it as qcow2",
            Self::Vmdk => "convert it with qemu-img convert -f vmdk -O qcow2",
            Self::Vdi => "convert it with qemu-img convert -f vdi -O qcow2",
            Self::Vhdx => "convert it with qemu-img convert -f vhdx -O qcow2",
            Self::Vhd => "convert it with qemu-img convert -f vpc -O qcow2",
            Self::Iso => {
                "attach it to the guest as a CD; one that also boots as a disk, convert with \
                 qemu-img convert -f raw -O qcow2"
            }
            Self::Gzip => "decompress it with gzip -d",
            Self::Xz => "decompress it with xz -d",
            Self::Zstd => "decompress it with zstd -d",
            Self::Bzip2 => "decompress it with bzip2 -d",
            Self::Zip => "unpack it with unzip",
            Self::Tar => "unpack it with tar -xf",
            Self::Html => "the download went wrong: get the image again",
            Self::LfsPointer => "get the image itself with git lfs pull",
        }
    }
}

impl fmt::Display for Kind {
    /// What it is, and what to do about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.name(), self.advice())
    }
}

/// A page that a server sends in place of a file begins with one of these, perhaps after a
/// byte order mark and blanks.
fn is_html(start: &[u8]) -> bool {
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let begins =
        |with: &[u8]| text.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    begins(b"<!doctype html") || begins(b"<html")
}
