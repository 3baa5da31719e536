//! What a guest or QEMU says while it runs: the end of it.

use std::collections::VecDeque;
use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::AbortHandle;

use super::{newest, private_file};

/// How much is kept, in bytes: a guest may write for ever.
const KEPT: usize = 64 << 10;

/// How many guests' consoles are kept.
const LOGS: usize = 20;

/// Keeps the console of a VM that failed as a file, in the place of the oldest one; says where.
pub(super) fn keep(directory: &Path, vm: &str, text: &str) -> Option<PathBuf> {
    if text.is_empty() {
        return None;
    }
    let path = directory.join(format!("{vm}.log"));
    let write = || {
        DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
        let mut file = private_file::create(&path)?;
        file.write_all(text.as_bytes())?;
        newest::prune(directory, LOGS, |name| name.starts_with("vm-"))
    };
    match write() {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(log = %path.display(), %error, "console not kept");
            None
        }
    }
}

/// Reads a stream to its end and keeps the last part of it.
#[derive(Debug)]
pub(super) struct Tail {
    kept: Arc<Mutex<VecDeque<u8>>>,
    reader: AbortHandle,
}

impl Tail {
    pub(super) fn of(stream: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let kept = Arc::default();
        let reader = tokio::spawn(read(stream, Arc::clone(&kept))).abort_handle();
        Self { kept, reader }
    }

    /// What was kept; all of it once the stream has ended.
    pub(super) fn text(&self) -> String {
        let mut kept = lock(&self.kept);
        String::from_utf8_lossy(kept.make_contiguous()).into_owned()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(kept: &Mutex<VecDeque<u8>>) -> MutexGuard<'_, VecDeque<u8>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(mut stream: impl AsyncRead + Unpin, kept: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let mut kept = lock(&kept);
        kept.extend(&buffer[..read]);
        let over = kept.len().saturating_sub(KEPT);
        kept.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{KEPT, Tail};

    #[rstest]
    #[tokio::test]
    async fn the_end_is_kept() {
        let mut said = vec![b'x'; 3 * KEPT];
        said.extend(b"the end");
        let tail = Tail::of(std::io::Cursor::new(said));
        while !tail.text().ends_with("the end") {
            tokio::task::yield_now().await;
        }
        assert_eq!(tail.text().len(), KEPT);
    }
}
