//! What a cluster is given (`fixtures/kubernetes`).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::prelude::*;
use crate::harness::requirements::kubectl;
use crate::harness::{cli, python};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/kubernetes").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).expect("a file of fixtures/kubernetes")
}

/// What `kubectl apply --kustomize` gives a cluster.
fn rendered() -> String {
    let answer = cli::run(Command::new(kubectl()).arg("kustomize").arg(fixture("")));
    assert_eq!(answer.code, Some(0), "{answer}");
    answer.stdout
}

fn validate(file: &Path, version: &str) -> cli::Answer {
    let mut command = Command::new(python::program("kubernetes-validate"));
    cli::run(command.args(["--strict", "--kubernetes-version", version]).arg(file))
}

/// The oldest version that it is for, and a new one.
#[apply(test)]
#[needs(Kubectl, KubernetesValidate)]
fn a_cluster_takes_the_manifests(scratch: Scratch, #[values("1.26", "1.36")] version: &str) {
    let text = rendered();
    let file = scratch.join("all.yaml");
    std::fs::write(&file, &text).expect("a file");
    let answer = validate(&file, version);
    assert_eq!(answer.code, Some(0), "{answer}");
    for kind in ["Namespace", "ServiceAccount", "ConfigMap", "DaemonSet", "CSIDriver"] {
        assert_eq!(text.matches(&format!("\nkind: {kind}\n")).count(), 1, "{kind}\n{text}");
    }
    let answer = validate(&fixture("example-pod.yaml"), version);
    assert_eq!(answer.code, Some(0), "{answer}");
    // Told something wrong, it complains: they are looked at.
    for (right, wrong) in
        [("attachRequired: false", "attachRequired: 7"), ("hostPath:", "hostpath:")]
    {
        assert!(text.contains(right), "{text}");
        std::fs::write(&file, text.replace(right, wrong)).expect("a file");
        assert_ne!(validate(&file, version).code, Some(0), "{wrong}");
    }
}

/// Server and driver have each option that the manifest gives them.
#[apply(test)]
#[needs(Csi)]
fn the_programs_take_their_options(scratch: Scratch) {
    let manifest = read("daemon-set.yaml");
    for (container, command) in [("- name: server", "serve"), ("- name: driver", "csi")] {
        let (_, begin) = manifest.split_once(container).expect("the container");
        let (args, _) = begin.split_once("volumeMounts").expect("its end");
        let (_, args) = args.split_once("args:").expect("its arguments");
        let help = cli::answer(&scratch, [command, "--help"]).stdout;
        let options = args.lines().filter_map(|line| line.trim().strip_prefix("- "));
        let names: Vec<_> = options.filter_map(|option| option.split('=').next()).collect();
        assert!(names.iter().filter(|name| name.starts_with("--")).count() > 4, "{names:?}");
        for name in names.into_iter().filter(|name| name.starts_with("--")) {
            let has = help.split_whitespace().any(|word| word == name);
            assert!(has, "{command} has no {name}:\n{help}");
        }
    }
}

/// What the driver says of itself and what the cluster is told of it is the same.
#[apply(test)]
fn the_cluster_is_told_the_truth() {
    const NAME: &str = "overlay-pool.csi";
    let driver = read("csi-driver.yaml");
    assert!(driver.contains(&format!("\n  name: {NAME}\n")), "{driver}");
    // The driver has VOLUME_MOUNT_GROUP, as `identity` proves.
    for line in ["attachRequired: false", "fsGroupPolicy: None", "podInfoOnMount: true"] {
        assert!(driver.contains(&format!("\n  {line}\n")), "{driver}");
    }
    assert!(driver.contains("volumeLifecycleModes:\n    - Ephemeral\n"), "{driver}");
    assert!(read("example-pod.yaml").contains(&format!("driver: {NAME}\n")));
    let daemons = read("daemon-set.yaml");
    assert_eq!(daemons.matches(&format!("plugins/{NAME}/csi.sock")).count(), 2, "{daemons}");
}
