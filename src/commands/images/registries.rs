//! What the commands about registries take: where images are kept, and how registries are asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use overlay_pool::images::{
    ImageError, ImageRef, Progress, RegistrySettings, Store, Tell, usual_credential_files,
};

use super::super::arguments;
use super::super::exit::Exit;
use super::super::failure::{Failure, base, system};

/// How large an image may be by default.
const MAX_SIZE: u64 = 64 << 30;

/// Where base images of registries are kept.
#[derive(Debug, clap::Args)]
pub(super) struct StoreDir {
    /// Where they are kept, instead of `OVERLAY_POOL_STORE`, or base-images in `OVERLAY_POOL_DIR` or
    /// in the user's own place for pools.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl StoreDir {
    pub(super) fn open(self) -> Result<Store, Failure> {
        Ok(Store::open(self.path())?)
    }

    /// Where it is, or would be.
    pub(super) fn path(self) -> PathBuf {
        self.store.unwrap_or_else(arguments::store)
    }
}

/// How registries are asked.
#[derive(Debug, clap::Args)]
pub(super) struct Registries {
    /// Ask this mirror first, HOST or HOST/PATH, for images of REGISTRY. Can be given again.
    #[arg(long, value_name = "REGISTRY=MIRROR", value_parser = arguments::mirror)]
    mirror: Vec<(String, String)>,
    /// Ask this registry by HTTP. One on this host is asked so anyway, all others by HTTPS. Can be
    /// given again.
    #[arg(long, value_name = "REGISTRY")]
    plain_http: Vec<String>,
    /// How long a registry may be silent.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = arguments::period)]
    timeout: Duration,
    /// How often in a row it is asked again if it gives nothing, or a connection breaks off.
    #[arg(long, value_name = "N", default_value_t = RegistrySettings::default().retries)]
    retries: u32,
}

impl Registries {
    pub(super) fn settings(self) -> RegistrySettings {
        RegistrySettings {
            plain_http: self.plain_http,
            mirrors: self.mirror,
            credential_files: usual_credential_files(),
            timeout: self.timeout,
            retries: self.retries,
        }
    }
}

/// What an image is.
#[derive(Debug, clap::Args)]
pub(super) struct Kind {
    /// It is a raw image, and not qcow2.
    #[arg(long)]
    raw: bool,
    /// How large it may be, as in 10G. By default 64G.
    #[arg(long, value_name = "SIZE", value_parser = arguments::size)]
    max_size: Option<u64>,
}

impl Kind {
    pub(super) fn max_size(&self) -> u64 {
        self.max_size.unwrap_or(MAX_SIZE)
    }

    pub(super) fn image(&self, text: &str) -> Result<ImageRef, Failure> {
        let image: ImageRef = text.parse()?;
        Ok(if self.raw { image.raw() } else { image })
    }
}

/// A bar on standard error, if that is a terminal.
pub(super) fn bar(image: &ImageRef) -> (ProgressBar, Tell) {
    const FORM: &str =
        "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(FORM).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
    bar.set_message(image.to_string());
    let shown = bar.clone();
    let tell: Tell = Arc::new(move |Progress { done, size }| {
        shown.set_length(size);
        shown.set_position(done);
    });
    (bar, tell)
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let (exit, advice) = match &error {
            ImageError::Reference { .. } => (Exit::Usage, ""),
            ImageError::Base { source, .. } => base(source),
            ImageError::Manifest { .. } | ImageError::Layer { .. } => (Exit::BadImage, ""),
            ImageError::TooLarge { .. } => (Exit::BadImage, "raise --max-size"),
            ImageError::File { source, .. } => (Exit::Failed, system(source)),
            _ => (Exit::Failed, ""),
        };
        Self::new(exit, &error, advice)
    }
}
