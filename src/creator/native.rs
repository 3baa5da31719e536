//! The native creator: a few `pwrite`s of bytes that were laid out before.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{BoxFuture, Creator, CreatorError};
use crate::image::Overlay;

/// Writes overlays itself: no process, no QEMU, and a sparse file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Creator for Native {
    fn blocks(&self) -> bool {
        true
    }

    fn start(&self) -> BoxFuture<'_, Result<(), CreatorError>> {
        Box::pin(async { Ok(()) })
    }

    /// Done when it returns: system calls of microseconds, which handing to another thread would
    /// only make slower.
    fn write<'a>(
        &'a self,
        overlay: &'a Arc<Overlay>,
        file: &'a Arc<File>,
    ) -> BoxFuture<'a, Result<(), CreatorError>> {
        Box::pin(async move {
            for extent in overlay.extents() {
                file.write_all_at(&extent.bytes, extent.offset)?;
            }
            file.set_len(overlay.file_len())?;
            Ok(())
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
