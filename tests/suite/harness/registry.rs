//! Debian's `docker-registry`, in a process of its own on a loopback port, and what is put into it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cli;
use super::python::build_directory;
use super::qcow2::Image;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who may, where not everybody may, and their password by bcrypt.
pub(crate) const USER: &str = "user:secret";
const HASHED: &str = "user:$2b$04$AJXFpcGCNrsHg1BGr3TNy.ajg.h5x/fqFxAx.O7x99JhQtz2W7h4S\n";

/// A registry's process. Dropped, it is killed.
pub(crate) struct Registry {
    child: Child,
    address: SocketAddr,
    storage: PathBuf,
}

/// The one that `fixtures/provision.sh` unpacks, or else that on `PATH`.
pub(crate) fn program() -> PathBuf {
    let unpacked = build_directory().join("registry/docker-registry");
    if unpacked.exists() { unpacked } else { "docker-registry".into() }
}

impl Registry {
    /// Starts an empty one, with its files in the test's folder.
    #[track_caller]
    pub(crate) fn start(scratch: &Path) -> Self {
        Self::start_with(scratch, "")
    }

    /// Starts one that only [`USER`] may use.
    #[track_caller]
    pub(crate) fn start_locked(scratch: &Path) -> Self {
        let passwords = scratch.join("htpasswd");
        std::fs::write(&passwords, HASHED).expect("a file");
        let path = passwords.display();
        Self::start_with(scratch, &format!("auth: {{htpasswd: {{realm: r, path: {path}}}}}\n"))
    }

    /// Starts one that shows a certificate, with the files of one that was started in this folder
    /// before: `certificate` and `key` are paths.
    #[track_caller]
    pub(crate) fn start_by_tls(scratch: &Path, certificate: &Path, key: &Path) -> Self {
        let (certificate, key) = (certificate.display(), key.display());
        Self::start_as(scratch, &format!(", tls: {{certificate: {certificate}, key: {key}}}"), "")
    }

    #[track_caller]
    fn start_with(scratch: &Path, more: &str) -> Self {
        Self::start_as(scratch, "", more)
    }

    #[track_caller]
    fn start_as(scratch: &Path, http: &str, more: &str) -> Self {
        let [storage, config, log] =
            ["registry", "registry.yml", "registry.log"].map(|name| scratch.join(name));
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'{http}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text).expect("a file");
        // Where an earlier one listened is none of this one's business.
        let _ = std::fs::remove_file(&log);
        let written = || File::options().create(true).append(true).open(&log).expect("a log");
        let mut child = Command::new(program())
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(written())
            .stderr(written())
            .spawn()
            .expect("docker-registry runs");
        let deadline = Instant::now() + PATIENCE;
        let address = loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let address =
                said.split("listening on ").nth(1).and_then(|rest| rest.split(['"', ',']).next());
            if let Some(Ok(address)) = address.map(str::parse) {
                break address;
            }
            let ended = child.try_wait().expect("its status");
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}\n{said}");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { child, address, storage }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A reference of an image in it.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Sends one request on a connection of its own.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: registry\r\nconnection: close\r\n\
             content-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        (status.expect("a status"), answer)
    }

    /// Puts a blob into a repository; gives its descriptor.
    #[track_caller]
    pub(crate) fn put_blob(&self, repository: &str, kind: &str, bytes: &[u8]) -> Value {
        let (status, answer) =
            self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "text/plain", b"");
        assert_eq!(status, 202, "{answer}");
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: "));
        let location = location.expect("a location").trim();
        let path = &location[location.find("/v2/").expect("a path")..];
        let digest = sha256(bytes);
        let path = format!("{path}&digest={digest}");
        let (status, answer) = self.ask("PUT", &path, "application/octet-stream", bytes);
        assert_eq!(status, 201, "{answer}");
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    /// Puts a manifest of these layers under a tag; gives its digest.
    #[track_caller]
    pub(crate) fn put_image(&self, repository: &str, tag: &str, layers: &[Value]) -> String {
        let config = self.put_blob(repository, "application/vnd.oci.image.config.v1+json", b"{}");
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers,
        });
        self.put_manifest(repository, tag, kind, &manifest)
    }

    #[track_caller]
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        manifest: &Value,
    ) -> String {
        let text = manifest.to_string();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, answer) = self.ask("PUT", &path, kind, text.as_bytes());
        assert_eq!(status, 201, "{answer}");
        sha256(text.as_bytes())
    }

    /// Puts an artifact whose one layer is a disk.
    #[track_caller]
    pub(crate) fn put_disk(&self, repository: &str, tag: &str, disk: &[u8]) -> String {
        let layer = self.put_blob(repository, "application/x-qemu-disk", disk);
        self.put_image(repository, tag, &[layer])
    }

    /// The file in which it keeps a blob.
    pub(crate) fn blob(&self, bytes: &[u8]) -> PathBuf {
        let digest = sha256(bytes);
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        self.storage.join(path)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A disk of some megabytes that no other seed gives.
pub(crate) fn disk(mib: usize, seed: u8) -> Vec<u8> {
    let mut bytes = Image::with_data(1 << 20).0;
    let length = bytes.len() + (mib << 20).max(4096);
    // Not all alike, so that a part in the wrong place is found out.
    let mut state = u32::from(seed) + 1;
    while bytes.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend(state.to_be_bytes());
    }
    bytes
}

/// A digest as OCI writes it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum runs");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("written");
    let Output { stdout, .. } = child.wait_with_output().expect("its answer");
    let text = String::from_utf8(stdout).expect("text");
    format!("sha256:{}", &text[..64])
}

/// `overlay-pool images` and these arguments, with the store in the test's folder.
pub(crate) fn images(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = cli::overlay_pool(scratch);
    command.arg("images").args(arguments).env("OVERLAY_POOL_STORE", store(scratch));
    command
}

pub(crate) fn store(scratch: &Path) -> PathBuf {
    scratch.join("store")
}

/// The file of an image in the store.
pub(crate) fn stored(scratch: &Path, bytes: &[u8]) -> PathBuf {
    let digest = sha256(bytes);
    store(scratch).join(digest.replace(':', "/"))
}

/// All that is in the store, by its paths below, without directories and the lock.
pub(crate) fn content(scratch: &Path) -> Vec<String> {
    let store = store(scratch);
    let (mut left, mut found) = (vec![store.clone()], Vec::new());
    while let Some(directory) = left.pop() {
        for entry in directory.read_dir().expect("a directory").flatten() {
            if entry.file_type().expect("a type").is_dir() {
                left.push(entry.path());
            } else if entry.file_name() != ".lock" {
                let path = entry.path();
                found.push(path.strip_prefix(&store).expect("below").display().to_string());
            }
        }
    }
    found.sort();
    found
}
