//! A node of Kubernetes: a kubelet's directory, a server and a driver, each in a mount namespace as
//! their containers have one, and Pods.

mod kubelet;
pub(crate) mod messages;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;

use super::cli;
use super::qcow2::Image;
use super::server::Server;
pub(crate) use kubelet::{Kubelet, Pod};

/// The size of the node's base image, in bytes.
pub(crate) const SIZE: u64 = 4 << 20;
/// A user that Pods run as.
const USER: &str = "12345";

/// A node. Dropped, all that runs on it is killed.
pub(crate) struct Node {
    scratch: PathBuf,
    /// Keeps the node's own mount namespace.
    namespace: Child,
}

impl Node {
    /// A node without a server and a driver. It has the base image `python.qcow2`.
    #[track_caller]
    pub(crate) fn new(scratch: &Path) -> Self {
        for folder in ["images", "kubelet/pods", "kubelet/plugins"] {
            std::fs::create_dir_all(scratch.join(folder)).expect("a folder");
        }
        Image::with_data(SIZE).write(&scratch.join("images/python.qcow2"));
        Self::again(scratch)
    }

    /// A node that was started again: its files are there, its mounts are gone.
    #[track_caller]
    pub(crate) fn again(scratch: &Path) -> Self {
        // Mounts below the kubelet's directory appear everywhere, as the kubelet has it.
        let script = "mount --bind kubelet kubelet; mount --make-shared kubelet; echo; exec cat";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir(scratch);
        let mut namespace = command.spawn().expect("a namespace");
        let ready = namespace.stdout.as_mut().expect("a pipe").read_exact(&mut [0]);
        ready.expect("its mounts");
        Self { scratch: scratch.to_owned(), namespace }
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.scratch.join("images")
    }

    pub(crate) fn kubelet_dir(&self) -> PathBuf {
        self.scratch.join("kubelet")
    }

    fn endpoint(&self) -> PathBuf {
        self.kubelet_dir().join("plugins/csi.sock")
    }

    /// A path as it is seen on the node.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.namespace.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// What is mounted in Pods' directories, on the node.
    pub(crate) fn mounts(&self) -> Vec<String> {
        self.mounts_of(Pid::from_child(&self.namespace))
    }

    /// The same in the mount namespace of a server.
    pub(crate) fn mounts_in(&self, server: &Server) -> Vec<String> {
        self.mounts_of(server.pid())
    }

    fn mounts_of(&self, process: Pid) -> Vec<String> {
        let path = format!("/proc/{}/mountinfo", process.as_raw_nonzero());
        let text = std::fs::read_to_string(path).expect("the mounts");
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        let pods = self.kubelet_dir().join("pods").display().to_string();
        let below = points.filter(|point| point.starts_with(&pods));
        let mut mounts: Vec<_> = below.map(str::to_owned).collect();
        mounts.sort();
        mounts
    }

    /// Runs a script on the node.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) {
        let answer = cli::run(self.on_node().args(["sh", "-ec", script]));
        assert_eq!(answer.code, Some(0), "{answer}");
    }

    /// A command that begins in the node's mount namespace.
    fn on_node(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.namespace.id()));
        command
    }

    /// A command that begins in the mount namespace of a container of the manifest.
    fn in_container(&self, name: &str) -> Command {
        let mut command = self.on_node();
        command.args(["unshare", "--mount", "--propagation", propagation(name)]);
        command
    }

    /// A server with two overlays ready, without any capability, as the manifest has it.
    #[track_caller]
    pub(crate) fn start_server(&self) -> Server {
        let mut command = self.in_container("server");
        command.args(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
        command.args([env!("CARGO_BIN_EXE_overlay-pool"), "serve", "--max-vms", "4"]);
        command.args(["--restock-interval", "0s"]);
        command.arg("--base").arg(self.images().join("python.qcow2"));
        command.arg("--images").arg(self.images());
        command.arg("--targets").arg(self.kubelet_dir().join("pods"));
        command.arg("--dir").arg(self.kubelet_dir().join("plugins/pool"));
        let mut command = cli::clean(command, &self.scratch);
        let mut server = Server::launch(&self.scratch, &mut command);
        server.await_ready();
        server
    }

    /// A driver, whose mounts appear on the node.
    #[track_caller]
    pub(crate) fn start_driver(&self, args: &[&str]) -> Driver {
        self.start_driver_by(&[], args)
    }

    /// A driver that another program starts.
    #[track_caller]
    pub(crate) fn start_driver_by(&self, by: &[&str], args: &[&str]) -> Driver {
        let mut command = self.in_container("driver");
        command.args(by);
        command.args([env!("CARGO_BIN_EXE_overlay-pool"), "csi", "--node-id", "node-1"]);
        command.arg("--endpoint").arg(format!("unix://{}", self.endpoint().display()));
        command.arg("--images").arg(self.images());
        command.arg("--kubelet-dir").arg(self.kubelet_dir()).args(args);
        command.arg("--socket").arg(super::server::socket(&self.scratch));
        let mut command = cli::clean(command, &self.scratch);
        let log = self.scratch.join("driver.log");
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        command.env("OVERLAY_POOL_LOG", "overlay_pool=debug").stderr(log);
        Driver { child: command.spawn().expect("the driver runs") }
    }

    /// A kubelet that asks the driver, which answers by then.
    pub(crate) async fn kubelet(&self) -> Kubelet {
        let socket = self.endpoint();
        let listens = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        super::wait::eventually("the driver listens", listens).await;
        Kubelet::new(&socket)
    }

    /// A Pod that wants a disk of the node's image.
    pub(crate) fn pod(&self, uid: &str) -> Pod {
        Pod {
            uid: uid.to_owned(),
            kubelet: self.kubelet_dir(),
            attributes: vec![("image", "python.qcow2".to_owned())],
            group: None,
        }
    }

    /// Runs a script in a Pod: in its volume, which is mounted there as container runtimes do, as a
    /// user that has nothing but the Pod's group.
    #[track_caller]
    pub(crate) fn run_in(&self, pod: &Pod, script: &str) -> cli::Answer {
        let mut command = self.on_node();
        let enter = "mount --rbind \"$0\" /mnt; cd /mnt; exec setpriv \"$@\"";
        command.args(["unshare", "--mount", "--propagation", "private", "sh", "-ec", enter]);
        command.arg(pod.target()).args(["--reuid", USER, "--regid", USER]);
        match pod.group {
            Some(group) => command.args(["--groups", &group.to_string()]),
            None => command.arg("--clear-groups"),
        };
        command.args(["--no-new-privs", "--inh-caps=-all", "sh", "-ec", script]);
        cli::run(&mut command)
    }
}

/// How a container of the manifest follows what the node mounts and unmounts below the kubelet's
/// directory, as the manifest has it and `unshare` calls it.
fn propagation(container: &str) -> &'static str {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/kubernetes/daemon-set.yaml");
    let manifest = std::fs::read_to_string(path).expect("the manifest");
    let (_, rest) = manifest.split_once(&format!("- name: {container}\n")).expect("it is there");
    let (_, rest) = rest.split_once("mountPath: /var/lib/kubelet\n").expect("its mount");
    let (mount, _) = rest.split_once("- name: ").expect("the next mount");
    match mount.lines().find_map(|line| line.trim().strip_prefix("mountPropagation: ")) {
        // The node's namespace shares what is mounted there, and nothing else.
        Some("Bidirectional") => "unchanged",
        Some("HostToContainer") => "slave",
        None | Some("None") => "private",
        Some(other) => panic!("mountPropagation: {other}"),
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.namespace.kill();
        let _ = self.namespace.wait();
    }
}

/// A driver's process. Dropped, it is killed.
pub(crate) struct Driver {
    child: Child,
}

impl Driver {
    /// Kills it, and waits until it is dead.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is killed");
        assert!(!self.child.wait().expect("its status").success());
    }

    /// Ends it with SIGTERM, which is no failure.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        assert!(self.child.wait().expect("its status").success());
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
