//! From a layer that was received into the store.

use std::io::{self, BufReader, Read, Seek};

use flate2::read::MultiGzDecoder;

use super::archive::{self, ArchiveError};
use super::digest::Digest;
use super::error::ImageError;
use super::manifest::Packing;
use super::partial::Partial;
use super::reference::ImageRef;
use super::store::Store;

/// What an archive may have beside the disk in it.
const BESIDE: u64 = 64 << 20;

/// Why a layer gave no disk.
pub(super) enum Unpack {
    Archive(ArchiveError),
    Store(ImageError),
}

/// Takes the disk out of a layer into the store.
pub(super) fn unpack(
    store: &Store,
    image: &ImageRef,
    layer: Digest,
    partial: &Partial,
    packing: Packing,
    most: u64,
) -> Result<Option<Digest>, Unpack> {
    let path = partial.path().with_extension("disk");
    // Whoever has the layer has this too; what a dead process left of it is nothing to go on with.
    let opened = Partial::open(&path, 0).map_err(Unpack::Store)?;
    let Some(mut disk) = opened else {
        return Err(Unpack::Store(ImageError::Busy { path: store.path().to_owned() }));
    };
    let mut file = partial.file();
    file.rewind().map_err(|error| Unpack::Store(ImageError::file(partial.path())(error)))?;
    let file = BufReader::with_capacity(1 << 18, file);
    let archive: Box<dyn Read> = match packing {
        Packing::Tar => Box::new(file),
        Packing::TarGzip => Box::new(MultiGzDecoder::new(file)),
    };
    let mut unwritten = None;
    let found = archive::disk(archive, most.saturating_add(BESIDE), |content, size| {
        if size > most {
            return Err(io::Error::other(format!("its disk has {size} bytes, of {most} allowed")));
        }
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = content.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            if let Err(error) = disk.write(&buffer[..read]) {
                unwritten = Some(ImageError::file(&path)(error));
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
    });
    let admitted = match (unwritten, found) {
        (Some(error), _) => Err(Unpack::Store(error)),
        (None, Err(error)) => Err(Unpack::Archive(error)),
        (None, Ok(None)) => Ok(None),
        (None, Ok(Some(()))) => {
            let digest = disk.digest();
            let admitted = store.admit(disk.path(), disk.file(), &digest, image);
            let noted = admitted.and_then(|()| store.note_layer(&layer, &digest));
            noted.map(|()| Some(digest)).map_err(Unpack::Store)
        }
    };
    if !matches!(admitted, Ok(Some(_))) {
        disk.discard();
    }
    admitted
}
