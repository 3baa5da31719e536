//! A registry that shows a certificate.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::cli::run;
use crate::harness::prelude::*;
use crate::harness::registry::{Registry, content, disk, images, stored};

const NEEDS: &[Need] = &[Need::Registry, Need::Openssl];

#[track_caller]
fn openssl(scratch: &Path, arguments: &[&str]) {
    let mut command = Command::new("openssl");
    let answer = run(command.args(arguments).current_dir(scratch));
    assert_eq!(answer.code, Some(0), "{answer}");
}

/// An authority's certificate, and a certificate for this host with its key.
fn certificates(scratch: &Path, authority: &str) -> [PathBuf; 3] {
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"];
    let [ca, ca_key, own, own_key] =
        ["pem", "key", "own.pem", "own.key"].map(|end| format!("{authority}.{end}"));
    let subject = format!("/CN={authority}");
    let of_ca = ["req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &ca_key, "-out", &ca];
    openssl(scratch, &[&of_ca[..], &new_key].concat());
    let signed = ["-CA", &ca, "-CAkey", &ca_key, "-addext", "subjectAltName=IP:127.0.0.1"];
    let usage =
        ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"];
    let of_host =
        ["req", "-x509", "-days", "2", "-subj", "/CN=x", "-keyout", &own_key, "-out", &own];
    openssl(scratch, &[&of_host[..], &new_key, &signed, &usage].concat());
    [ca, own, own_key].map(|name| scratch.join(name))
}

/// Whose certificate is signed by an authority that the system doesn't know, unless it is told.
#[apply(test)]
fn a_registry_s_certificate_is_judged(scratch: Scratch) {
    let bytes = disk(1, 1);
    Registry::start(&scratch).put_disk("x", "1", &bytes);
    let [ca, certificate, key] = certificates(&scratch, "ours");
    let [other, ..] = certificates(&scratch, "other");
    let registry = Registry::start_by_tls(&scratch, &certificate, &key);
    // An address of this host that isn't written as one: those are asked by HTTP.
    let image = format!("127.1:{}/x:1", registry.address().port());
    let pull = |trusted: Option<&Path>| {
        let mut command = images(&scratch, &["pull", &image]);
        if let Some(path) = trusted {
            command.env("SSL_CERT_FILE", path);
        }
        run(&mut command)
    };
    for trusted in [None, Some(&*other)] {
        let refused = pull(trusted);
        assert_eq!(refused.code, Some(1), "{refused}");
        assert!(refused.stderr.contains("its certificate isn't trusted"), "{refused}");
        assert!(refused.stderr.contains("SSL_CERT_FILE"), "{refused}");
        assert_eq!(content(&scratch), [""; 0]);
    }
    let pulled = pull(Some(&ca));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    assert_eq!(std::fs::read(stored(&scratch, &bytes)).expect("the image"), bytes);
}

/// As in a container without the package.
#[apply(test)]
fn who_knows_no_authority_is_told_what_to_install(scratch: Scratch) {
    let mut pull = images(&scratch, &["pull", "registry.example/x:1"]);
    let nowhere = scratch.join("nowhere");
    let refused = run(pull.env("SSL_CERT_FILE", &nowhere).env("SSL_CERT_DIR", &nowhere));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("install ca-certificates"), "{refused}");
}

/// Who asks by HTTPS isn't content with less.
#[apply(test)]
fn no_certificate_is_no_registry(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    registry.put_disk("x", "1", &disk(1, 1));
    let image = format!("127.1:{}/x:1", registry.address().port());
    let refused = run(&mut images(&scratch, &["pull", &image]));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert_eq!(content(&scratch), [""; 0]);
    let name = image.split('/').next().expect("its name");
    let pulled = run(&mut images(&scratch, &["pull", "--plain-http", name, &image]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
}
