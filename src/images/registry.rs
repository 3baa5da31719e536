//! What is asked of a registry, through `oci-client`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol, SizedStream};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use tokio::task::spawn_blocking;

use super::credentials;
use super::digest::Digest;
use super::error::ImageError;
use super::manifest;
use super::reference::ImageRef;
use super::registry_error::RegistryError;

/// What a manifest may take, in silences that are allowed.
const PATIENCE: u32 = 4;
const USER_AGENT: &str = concat!("overlay-pool/", env!("CARGO_PKG_VERSION"));

/// How registries are asked. Proxies are those of the environment: `HTTPS_PROXY`, `HTTP_PROXY`,
/// `ALL_PROXY` and `NO_PROXY`.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Registries, `HOST` or `HOST:PORT`, that are asked by HTTP. Those on this host, as `localhost`
    /// or by a loopback address, are too; all others only by HTTPS.
    pub plain_http: Vec<String>,
    /// What is asked in place of a registry, and before it: its name, and the mirror's, which may
    /// have a path.
    pub mirrors: Vec<(String, String)>,
    /// Files with credentials; the first that knows a registry counts.
    pub credential_files: Vec<PathBuf>,
    /// How long a registry may be silent.
    pub timeout: Duration,
    /// How often in a row it is asked again without having sent anything of a blob.
    pub retries: u32,
}

impl Default for RegistrySettings {
    /// No mirrors, no plain HTTP, no credentials; 30 s of silence, five retries.
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            mirrors: Vec::new(),
            credential_files: Vec::new(),
            timeout: Duration::from_secs(30),
            retries: 5,
        }
    }
}

impl RegistrySettings {
    /// An image where it is looked for: at the mirrors of its registry, and there itself.
    pub(super) fn places(&self, image: &ImageRef) -> Result<Vec<ImageRef>, ImageError> {
        let mirrors = self.mirrors.iter().filter(|(registry, _)| registry == image.registry());
        let mirrored = mirrors.map(|(_, mirror)| image.at(mirror));
        mirrored.chain([Ok(image.clone())]).collect()
    }

    fn is_plain(&self, registry: &str) -> bool {
        is_loopback(registry) || self.plain_http.iter().any(|plain| plain == registry)
    }
}

/// Whether a registry is on this host by its name.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A repository of a registry.
pub(super) struct Registry {
    oci: Client,
    http: reqwest::Client,
    auth: RegistryAuth,
    reference: Reference,
    scheme: &'static str,
    timeout: Duration,
}

impl Registry {
    /// Gets ready to ask for an image, without a connection yet.
    pub(super) async fn open(
        image: &ImageRef,
        settings: &RegistrySettings,
    ) -> Result<Self, ImageError> {
        // Another part of the process may have chosen one, which will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let reference = image.reference.clone();
        let host = reference.resolve_registry().to_owned();
        let (files, asked) = (settings.credential_files.clone(), host.clone());
        let found = spawn_blocking(move || credentials::find(&files, &asked)).await;
        let auth = found.map_err(io::Error::from).map_err(ImageError::file("credentials"))??;
        let plain = settings.is_plain(&host);
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(settings.timeout),
            read_timeout: Some(settings.timeout),
            user_agent: USER_AGENT,
            use_monolithic_push: true,
            ..ClientConfig::default()
        };
        let failed = |source| ImageError::Registry {
            image: image.to_string(),
            registry: host.clone(),
            source,
        };
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(settings.timeout)
            .read_timeout(settings.timeout)
            .build()
            .map_err(|error| failed(RegistryError::unready(&error)))?;
        let oci = Client::try_from(config)
            .map_err(|error| failed(RegistryError::of(&error, "client")))?;
        let scheme = if plain { "http" } else { "https" };
        Ok(Self { oci, http, auth, reference, scheme, timeout: settings.timeout })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.reference.resolve_registry()
    }

    /// Says who we are, if it asks: what comes after it needn't be asked twice.
    async fn log_in(
        &self,
        operation: RegistryOperation,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let token = self.oci.auth(&self.reference, &self.auth, operation).await;
        let token = token.map_err(|error| RegistryError::of(&error, "token"))?;
        let header = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}")));
        // The client of the protocol would take such a one for good.
        header.transpose().map_err(|_| RegistryError::Answer("its token is none".to_owned()))
    }

    /// A manifest by its digest, or the one that the image's tag names now. Its bytes are bounded
    /// here, since the client of the protocol takes any number of them.
    pub(super) async fn manifest(&self, digest: Option<Digest>) -> Result<Vec<u8>, RegistryError> {
        let token = self.log_in(RegistryOperation::Pull).await?;
        let tag = self.reference.tag().unwrap_or("latest");
        let which = digest.map_or_else(|| tag.to_owned(), |digest| digest.to_string());
        let (host, repository) = (self.name(), self.reference.repository());
        let url = format!("{}://{host}/v2/{repository}/manifests/{which}", self.scheme);
        let request = self.http.get(url).header(ACCEPT, manifest::ACCEPTED.join(", "));
        let request = match (token, &self.auth) {
            (Some(token), _) => request.header(AUTHORIZATION, token),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            (None, _) => request,
        };
        let transport = |error: reqwest::Error| RegistryError::transport(&error);
        let answer = request.timeout(self.timeout * PATIENCE).send().await.map_err(transport)?;
        let status = answer.status();
        let bytes = bounded(answer, manifest::MAX_BYTES).await?;
        if !status.is_success() {
            let message = String::from_utf8_lossy(&bytes);
            return Err(RegistryError::of_status(status.as_u16(), "image", &message));
        }
        let actual = Digest::of(&bytes);
        match digest {
            Some(expected) if expected != actual => Err(RegistryError::Digest { expected, actual }),
            _ => Ok(bytes),
        }
    }

    /// The bytes of a blob from an offset on, or from its beginning where the registry can't begin
    /// elsewhere; and where they begin. They are as they come, and not compared with the digest.
    pub(super) async fn blob(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<(u64, SizedStream), RegistryError> {
        self.log_in(RegistryOperation::Pull).await?;
        let digest = digest.to_string();
        let answer = self.oci.pull_blob_stream_partial(&self.reference, &*digest, offset, None);
        match answer.await.map_err(|error| RegistryError::of(&error, "blob"))? {
            BlobResponse::Partial(stream) => Ok((offset, stream)),
            BlobResponse::Full(stream) => Ok((0, stream)),
        }
    }

    /// The client of the protocol and the repository, to push to.
    pub(super) async fn to_push(&self) -> Result<(&Client, &Reference), RegistryError> {
        for operation in [RegistryOperation::Pull, RegistryOperation::Push] {
            self.log_in(operation).await?;
        }
        Ok((&self.oci, &self.reference))
    }
}

async fn bounded(mut answer: reqwest::Response, most: usize) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    while let Some(chunk) =
        answer.chunk().await.map_err(|error| RegistryError::transport(&error))?
    {
        if bytes.len() + chunk.len() > most {
            return Err(RegistryError::TooLarge { what: "a manifest", most: most as u64 });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{ImageRef, RegistrySettings};

    #[rstest]
    #[case("localhost:5000", true)]
    #[case("localhost", true)]
    #[case("127.0.0.1:5000", true)]
    #[case("plain.example.com:80", true)]
    #[case("ghcr.io", false)]
    #[case("localhost.example.com", false)]
    #[case("127.0.0.1.example.com", false)]
    #[case("plain.example.com", false)]
    fn http_is_for_this_host_and_where_it_was_asked_for(
        #[case] registry: &str,
        #[case] plain: bool,
    ) {
        let plain_http = vec!["plain.example.com:80".to_owned()];
        let settings = RegistrySettings { plain_http, ..RegistrySettings::default() };
        assert_eq!(settings.is_plain(registry), plain);
    }

    #[rstest]
    fn mirrors_come_before_the_registry() {
        let mirrors = [
            ("ghcr.io", "one:5000"),
            ("quay.io", "other:5000"),
            ("ghcr.io", "two.example.com/hub"),
        ];
        let mirrors = mirrors.map(|(registry, mirror)| (registry.to_owned(), mirror.to_owned()));
        let settings = RegistrySettings { mirrors: mirrors.into(), ..RegistrySettings::default() };
        let image: ImageRef = "ghcr.io/a:1".parse().expect("a reference");
        let places = settings.places(&image).expect("places");
        let places: Vec<_> = places.iter().map(ImageRef::to_string).collect();
        assert_eq!(places, ["one:5000/a:1", "two.example.com/hub/a:1", "ghcr.io/a:1"]);
    }
}
