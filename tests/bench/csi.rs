//! Volumes of Kubernetes: a driver and a server, each a process of its own, and what the kubelet
//! asks them.

mod messages;

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::future::try_join_all;
use hyper::http::uri::PathAndQuery;
use prost::Message;
use rustix::fs::{major, minor, stat};
use tokio::process::{Child, Command};
use tokio::time::sleep;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::figures::{Figures, Row, percentile};
use super::server::process::{Server, connect};
use super::{Bench, Error, Ground, Measured, Options, float};
use messages::{Nothing, Publish, Unpublish};

/// How many overlays are ready when it begins.
const READY: usize = 100;

/// Measure volumes that are published and unpublished, one at a time and many at once. It takes root.
#[derive(Debug, Parser)]
pub(super) struct Csi {
    #[command(flatten)]
    options: Options,
    /// How many volumes to publish and unpublish, one after the other.
    #[arg(long, value_name = "N", default_value_t = 500)]
    count: usize,
    /// How many to publish at once.
    #[arg(long, value_name = "N", default_value_t = 50)]
    at_once: usize,
    /// How often so many.
    #[arg(long, value_name = "N", default_value_t = 20)]
    rounds: usize,
}

const ONE: &str = "single";
const MANY: &str = "together";

impl Bench for Csi {
    const ROWS: &[Row] = &[
        ("volumes", "volumes", None),
        ("publish_p50_us", "publish p50, µs", Some((ONE, '≤', 3000.0))),
        ("publish_p99_us", "publish p99, µs", Some((MANY, '≤', 15000.0))),
        ("unpublish_p50_us", "unpublish p50, µs", Some((ONE, '≤', 3000.0))),
        ("unpublish_p99_us", "unpublish p99, µs", Some((MANY, '≤', 15000.0))),
    ];

    fn options(&self) -> &Options {
        &self.options
    }

    async fn measure(self, ground: Ground) -> Result<Measured, Error> {
        let kubelet = ground.folder("kubelet")?;
        let (pods, place) = (kubelet.join("pods"), ground.folder("server")?);
        std::fs::create_dir(&pods)?;
        let mut server = Server::start(&place, &pods, &ground.base, READY).await?;
        let mut client = server.client().await?;
        let node = Node::start(&ground, &place.join("socket"), &kubelet).await?;
        let (mut one, mut many, mut checked) = (Took::default(), Took::default(), 0);

        ground.progress(ONE);
        for number in 0..self.count {
            node.round(&[node.volume(number)?], &mut one, |_| Ok(())).await?;
        }
        ground.progress(MANY);
        for round in 0..self.rounds {
            server.restocked(&mut client, READY).await?;
            let volumes = (0..self.at_once).map(|number| node.volume(number));
            let volumes = volumes.collect::<Result<Vec<_>, _>>()?;
            let look = |disks: &[PathBuf]| {
                // Each round takes as long as that; one is enough.
                if round == 0 {
                    checked = disks.len();
                    node.check(disks, &ground)?;
                }
                Ok(())
            };
            node.round(&volumes, &mut many, look).await?;
        }
        drop(node);
        server.stop().await?;
        let columns = [(ONE, one), (MANY, many)].map(|(name, took)| (name, took.figures()));
        Ok(Measured {
            what: format!("{} volumes are published at once.", self.at_once),
            columns: columns.into(),
            sound: checked,
            unless: ground.not_a_disk().or(without_journal(&ground)?),
        })
    }
}

/// Why ext4 without a journal isn't judged: for each new file it goes over all inodes that were freed in
/// the last minutes (`recently_deleted` in Linux' `fs/ext4/ialloc.c`), and so each volume takes longer
/// than the one before.
fn without_journal(ground: &Ground) -> Result<Option<String>, Error> {
    if ground.filesystem != "ext4" {
        return Ok(None);
    }
    let device = stat(&ground.dir)?.st_dev;
    let device = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let device = Path::new(&device).canonicalize()?;
    let journal = format!("{}-", device.file_name().unwrap_or_default().display());
    // That directory is there if there is any journal.
    let mut journals = std::fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten();
    let has_one = journals.any(|of| of.file_name().as_bytes().starts_with(journal.as_bytes()));
    Ok((!has_one).then(|| "ext4 without a journal".to_owned()))
}

/// How long calls took.
#[derive(Default)]
struct Took {
    publish: Vec<Duration>,
    unpublish: Vec<Duration>,
}

impl Took {
    fn figures(self) -> Figures {
        let mut figures = Figures::default();
        figures.set("volumes", float(self.publish.len()));
        for (name, samples) in [("publish", self.publish), ("unpublish", self.unpublish)] {
            figures.set(format!("{name}_p50_us"), percentile(samples.clone(), 50));
            figures.set(format!("{name}_p99_us"), percentile(samples, 99));
        }
        figures
    }
}

/// A driver in a mount namespace of its own, and a kubelet's connection to it. Dropped, it is killed.
struct Node {
    channel: Channel,
    kubelet: PathBuf,
    image: String,
    _driver: Child,
}

impl Node {
    async fn start(ground: &Ground, server: &Path, kubelet: &Path) -> Result<Self, Error> {
        let endpoint = kubelet.join("csi.sock");
        let images = ground.base.path.parent().ok_or("a base image without a folder")?;
        let image = ground.base.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = Command::new("unshare");
        command.args(["--mount", env!("CARGO_BIN_EXE_overlay-pool"), "csi", "--node-id", "bench"]);
        command.arg("--endpoint").arg(&endpoint).arg("--socket").arg(server);
        command.arg("--images").arg(images).arg("--kubelet-dir").arg(kubelet);
        command.env("OVERLAY_POOL_LOG", "overlay_pool=warn").stdin(Stdio::null());
        command.stderr(File::create(kubelet.join("log"))?).kill_on_drop(true);
        let mut driver = command.spawn()?;
        connect(&endpoint, &mut driver).await?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", endpoint.display()))?;
        let channel = endpoint.connect_lazy();
        Ok(Self { channel, kubelet: kubelet.to_owned(), image, _driver: driver })
    }

    /// What the kubelet asks for, after it made the directory.
    fn volume(&self, number: usize) -> Result<Publish, Error> {
        let pod = format!("pods/{number}/volumes/kubernetes.io~csi/disk");
        let above = self.kubelet.join(pod);
        std::fs::create_dir_all(&above)?;
        std::fs::write(above.join("vol_data.json"), "{}")?;
        let target = above.join("mount").display().to_string();
        Ok(Publish::new(format!("csi-{number}"), target, &self.image))
    }

    /// Publishes volumes at once, looks at their disks, and unpublishes them at once.
    async fn round(
        &self,
        volumes: &[Publish],
        took: &mut Took,
        look: impl FnOnce(&[PathBuf]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let publish = volumes.iter().map(|volume| self.ask("Publish", volume.clone()));
        took.publish.extend(try_join_all(publish).await?);
        let disk = |volume: &Publish| Path::new(&volume.target_path).join("disk.qcow2");
        look(&volumes.iter().map(disk).collect::<Vec<_>>())?;
        let unpublish = volumes.iter().map(|volume| self.ask("Unpublish", Unpublish::of(volume)));
        took.unpublish.extend(try_join_all(unpublish).await?);
        // Inodes that are free again are cheap only after a while.
        sleep(Duration::from_millis(1)).await;
        Ok(())
    }

    async fn ask<Q: Message + Send + Sync + 'static>(
        &self,
        what: &str,
        request: Q,
    ) -> Result<Duration, Error> {
        let path: PathAndQuery = format!("/csi.v1.Node/Node{what}Volume").parse()?;
        let mut grpc = Grpc::new(self.channel.clone());
        let begin = Instant::now();
        grpc.ready().await?;
        let codec = ProstCodec::<Q, Nothing>::default();
        grpc.unary(Request::new(request), path, codec).await?;
        Ok(begin.elapsed())
    }

    /// That each is an overlay as it should be.
    fn check(&self, disks: &[PathBuf], ground: &Ground) -> Result<(), Error> {
        let content = super::ground::content(&ground.overlay);
        for disk in disks {
            if std::fs::read(disk)? != content {
                return Err(format!("bad overlay, {}, image {}", disk.display(), self.image).into());
            }
        }
        Ok(())
    }
}
