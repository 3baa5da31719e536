//! Who we are to a registry, by the files that docker and podman keep.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use oci_client::secrets::RegistryAuth;

use super::error::ImageError;

/// What docker calls its own registry in its file.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Where docker and podman keep credentials: the file that `REGISTRY_AUTH_FILE` names; without it
/// `containers/auth.json` in `XDG_RUNTIME_DIR` and in `XDG_CONFIG_HOME` or `~/.config`, and
/// `config.json` in `DOCKER_CONFIG` or `~/.docker`. The first that knows a registry counts.
#[must_use]
pub fn usual_credential_files() -> Vec<PathBuf> {
    usual(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn usual(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name: &str| variable(name).map(PathBuf::from);
    if let Some(file) = path("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = path("HOME");
    let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let files = [
        path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        path("XDG_CONFIG_HOME")
            .or_else(|| below_home(".config"))
            .map(|dir| dir.join("containers/auth.json")),
        path("DOCKER_CONFIG").or_else(|| below_home(".docker")).map(|dir| dir.join("config.json")),
    ];
    files.into_iter().flatten().collect()
}

/// What the first of the files that knows a registry says. It may name a program to ask, so this
/// can take a while.
pub(super) fn find(files: &[PathBuf], registry: &str) -> Result<RegistryAuth, ImageError> {
    let asked = if registry.ends_with("docker.io") { DOCKER_HUB } else { registry };
    for path in files {
        let failed = |why: String| ImageError::Credentials {
            registry: registry.to_owned(),
            path: path.clone(),
            why,
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error.to_string())),
            Ok(file) => file,
        };
        match get_credential_from_reader(io::BufReader::new(file), asked) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(RegistryAuth::Basic(user, password));
            }
            Ok(DockerCredential::IdentityToken(_)) => {
                let why = "an identity token isn't understood; log in with a password or a token";
                return Err(failed(why.to_owned()));
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    Ok(RegistryAuth::Anonymous)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use oci_client::secrets::RegistryAuth;
    use rstest::rstest;

    use super::{find, usual};

    #[rstest]
    #[case::none(&[], &[])]
    #[case::home(
        &[("HOME", "/h")],
        &["/h/.config/containers/auth.json", "/h/.docker/config.json"],
    )]
    #[case::all(
        &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")],
        &["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"],
    )]
    #[case::named(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a")], &["/a"])]
    fn the_usual_files(#[case] environment: &[(&str, &str)], #[case] files: &[&str]) {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        };
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        assert_eq!(usual(variable), files);
    }

    #[rstest]
    fn the_first_file_that_knows_a_registry_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let [missing, other, known] =
            ["missing", "other", "known"].map(|name| folder.path().join(name));
        std::fs::write(&other, r#"{"auths": {"other.example.com": {"auth": "eDp5"}}}"#)
            .expect("a file");
        std::fs::write(&known, r#"{"auths": {"r:5000": {"auth": "dTpwOnc="}}}"#).expect("a file");
        let files = [missing, other, known];
        let found = find(&files, "r:5000").expect("credentials");
        assert_eq!(found, RegistryAuth::Basic("u".to_owned(), "p:w".to_owned()));
        assert_eq!(find(&files, "ghcr.io").expect("none"), RegistryAuth::Anonymous);
    }

    #[rstest]
    #[case::not_json("{", "config")]
    #[case::not_base64(r#"{"auths": {"r:5000": {"auth": "!"}}}"#, "decode")]
    #[case::a_token(r#"{"auths": {"r:5000": {"identitytoken": "t"}}}"#, "identity token")]
    fn credentials_that_are_none_are_refused(#[case] text: &str, #[case] why: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        std::fs::write(&file, text).expect("a file");
        let error =
            find(std::slice::from_ref(&file), "r:5000").expect_err("no credentials").to_string();
        assert!(error.contains(why) && error.contains(&file.display().to_string()), "{error}");
    }
}
