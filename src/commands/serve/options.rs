//! What a server is told, on the command line and in a file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use overlay_pool::PoolConfig;
use overlay_pool::api::{Limits, VmLimits};
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseRef, OverlayOptions, Profile, References};
use overlay_pool::vm::{Accelerator, VmSettings};
use serde::{Deserialize, Deserializer};

use crate::commands::arguments;
use crate::commands::exit::Exit;
use crate::commands::failure::Failure;
use crate::commands::metrics_listener;

/// The options, as the command line and a file have them.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Options {
    /// A directory of base images. Overlays of those named `*-base-*.qcow2` are kept ready;
    /// clients may name all in it.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// A base image to keep ready; can be given again.
    #[arg(long, value_name = "IMG")]
    base: Vec<PathBuf>,
    /// A raw base image to keep ready; can be given again.
    #[arg(long, value_name = "IMG")]
    raw_base: Vec<PathBuf>,
    /// A directory in which clients may have overlays. It should be on the filesystem of --dir,
    /// which is also the default. Can be given again.
    #[arg(long, value_name = "DIR")]
    targets: Vec<PathBuf>,
    /// Where the pool makes its directory, instead of `OVERLAY_POOL_DIR` or the user's own place.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the server keeps what it has to know of disks that are acquired with an id. By default
    /// `leases` in --dir.
    #[arg(long, value_name = "DIR")]
    leases: Option<PathBuf>,
    /// How many VMs run at once: half as many overlays of each base image are kept ready. By
    /// default 10.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_vms: Option<i64>,
    /// Where to listen, instead of `OVERLAY_POOL_SOCKET` or /run/overlay-pool/pool.sock for root,
    /// else overlay-pool.sock in `XDG_RUNTIME_DIR`.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// A group that may connect too, by name or number. By default only this user may.
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<String>,
    /// Answer `GET /metrics`, and nothing else, on this TCP port too: a port of loopback, as in
    /// 9469, or an address and a port, as in 0.0.0.0:9469. Who reaches it is told the paths of base
    /// images.
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_listener::address)]
    #[serde(deserialize_with = "address")]
    metrics_listen: Option<SocketAddr>,
    /// How overlays are made; all write the same bytes. By default native.
    #[arg(long, value_parser = arguments::creator())]
    creator: Option<CreatorKind>,
    /// Which qcow2 features to use: for QEMU, or for other readers. By default qemu.
    #[arg(long, value_parser = arguments::profile())]
    profile: Option<Profile>,
    /// Take base images that refer to a backing file or an external data file.
    #[arg(long)]
    allow_references: bool,
    /// If less space than this is free, as in 10G, no overlay is made ahead. By default 0.
    #[arg(long, value_name = "SIZE", value_parser = arguments::size)]
    #[serde(deserialize_with = "size")]
    min_free: Option<u64>,
    /// How long after an acquire the shelves are filled again. By default 500ms.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "time")]
    restock_interval: Option<Duration>,
    /// After how long without an acquire a base image's overlays are given up, as in 2h. By
    /// default never.
    #[arg(long, value_name = "TIME", value_parser = arguments::period)]
    #[serde(deserialize_with = "period")]
    shelf_idle: Option<Duration>,
    /// How many overlays are made ahead at once. By default 8.
    #[arg(long, value_name = "N")]
    max_creations: Option<NonZeroUsize>,
    /// How long the creator may take for one overlay. By default 10s.
    #[arg(long, value_name = "TIME", value_parser = arguments::period)]
    #[serde(deserialize_with = "period")]
    create_timeout: Option<Duration>,
    /// How many connections there may be at once. By default 1024.
    #[arg(long, value_name = "N")]
    max_connections: Option<NonZeroUsize>,
    /// How many of them may be one process's, or one other user's. By default 256.
    #[arg(long, value_name = "N")]
    max_connections_per_client: Option<NonZeroUsize>,
    /// How many disks with an id a user may have who is neither root nor this one. By default 1000.
    #[arg(long, value_name = "N")]
    max_disks_per_user: Option<NonZeroUsize>,
    /// How long a request may take. By default 30s.
    #[arg(long, value_name = "TIME", value_parser = arguments::period)]
    #[serde(deserialize_with = "period")]
    request_timeout: Option<Duration>,
    /// How long a client may be silent, and may take to send a request's head or to read an
    /// answer. By default 30s.
    #[arg(long, value_name = "TIME", value_parser = arguments::period)]
    #[serde(deserialize_with = "period")]
    client_timeout: Option<Duration>,
    /// How long requests under way may take once the server is to end. By default 10s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "time")]
    drain_timeout: Option<Duration>,
    /// Run clients' code too, in so many VMs at once, those that wait for code among them. What
    /// `OVERLAY_POOL_...` says of VMs holds, but for `OVERLAY_POOL_MAX_VMS` and
    /// `OVERLAY_POOL_WARM`.
    #[arg(long, value_name = "N", help_heading = VMS)]
    vms: Option<NonZeroU32>,
    /// A language, and how many VMs wait for code in it, as in python=4; can be given again.
    #[arg(long, value_name = "LANGUAGE=N", help_heading = VMS)]
    language: Vec<String>,
    /// A file of further languages, instead of `OVERLAY_POOL_INTERPRETERS`; exec --help has one.
    #[arg(long, value_name = "FILE", help_heading = VMS)]
    interpreters: Option<PathBuf>,
    /// How many VMs a user may have who is neither root nor this one. By default half of --vms.
    #[arg(long, value_name = "N", help_heading = VMS)]
    vms_per_user: Option<NonZeroUsize>,
    /// After how long without a program a VM is given up that its user keeps. By default 5m.
    #[arg(long, value_name = "TIME", value_parser = arguments::period, help_heading = VMS)]
    #[serde(deserialize_with = "period")]
    session_idle: Option<Duration>,
    /// How large a request for a program may be with its files, and the files that it gives back.
    /// By default 16M.
    #[arg(long, value_name = "SIZE", value_parser = arguments::size, help_heading = VMS)]
    #[serde(deserialize_with = "size")]
    max_upload: Option<u64>,
    /// Where the VMs' images are, instead of `OVERLAY_POOL_IMAGES`.
    #[arg(long, value_name = "DIR", help_heading = VMS)]
    guest_images: Option<PathBuf>,
    /// What runs the VMs' instructions, instead of `OVERLAY_POOL_ACCEL`: auto is KVM if it is
    /// usable, never TCG.
    #[arg(long, value_parser = arguments::accelerator(), help_heading = VMS)]
    #[serde(deserialize_with = "accelerator")]
    accel: Option<Accelerator>,
    /// An unprivileged user that the VMs' QEMU runs as, instead of `OVERLAY_POOL_VM_USER`, which
    /// only root can have. By default it runs as this user.
    #[arg(long, value_name = "USER", help_heading = VMS)]
    vm_user: Option<String>,
    /// An image of a registry to keep ready, as in ghcr.io/acme/python:3.13; can be given again. It is
    /// pulled at the start, and clients name it by its name in --image-store.
    #[cfg(feature = "images")]
    #[arg(long, value_name = "IMAGE", help_heading = IMAGES)]
    image: Vec<String>,
    /// A raw one; can be given again.
    #[cfg(feature = "images")]
    #[arg(long, value_name = "IMAGE", help_heading = IMAGES)]
    raw_image: Vec<String>,
    /// After how long is looked whether tags have moved. By default on SIGHUP alone.
    #[cfg(feature = "images")]
    #[arg(long, value_name = "TIME", value_parser = arguments::period, help_heading = IMAGES)]
    #[serde(deserialize_with = "period")]
    image_refresh: Option<Duration>,
    /// How much images may take: over it, those that nothing uses go, by their last use. By default
    /// only those go whose tags have moved.
    #[cfg(feature = "images")]
    #[arg(long, value_name = "SIZE", value_parser = arguments::size, help_heading = IMAGES)]
    #[serde(deserialize_with = "size")]
    image_limit: Option<u64>,
    /// Take an image for unused if no disk with an id needs it: --targets, which others may keep from
    /// being read, aren't looked at. For servers of which every disk has an id and stays where it was
    /// put.
    #[cfg(feature = "images")]
    #[arg(long, help_heading = IMAGES)]
    prune_by_leases: bool,
    /// Where they are kept, instead of `OVERLAY_POOL_STORE`, or base-images in `OVERLAY_POOL_DIR` or
    /// in the user's own place for pools.
    #[cfg(feature = "images")]
    #[arg(long, value_name = "DIR", help_heading = IMAGES)]
    image_store: Option<PathBuf>,
    /// Ask this mirror first, as `images pull` does; can be given again.
    #[cfg(feature = "images")]
    #[arg(long, value_name = "REGISTRY=MIRROR", help_heading = IMAGES)]
    image_mirror: Vec<String>,
    /// Ask this registry by HTTP, as `images pull` does; can be given again.
    #[cfg(feature = "images")]
    #[arg(long, value_name = "REGISTRY", help_heading = IMAGES)]
    image_plain_http: Vec<String>,
}

const VMS: &str = "Options for VMs";
#[cfg(feature = "images")]
const IMAGES: &str = "Options for images of registries";

fn accelerator<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Accelerator>, D::Error> {
    let text = String::deserialize(value)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn address<'de, D: Deserializer<'de>>(value: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(value)?;
    metrics_listener::address(&text).map(Some).map_err(serde::de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(value)?;
    arguments::size(&text).map(Some).map_err(serde::de::Error::custom)
}

fn time<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(value)?;
    humantime::parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

fn period<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(value)?;
    arguments::period(&text).map(Some).map_err(serde::de::Error::custom)
}

/// What a server needs to know.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) pool: PoolConfig,
    pub(super) limits: Limits,
    /// Where targets may lie; none if that is the pool's own place.
    pub(super) targets: Vec<PathBuf>,
    pub(super) images: Option<PathBuf>,
    pub(super) leases: Option<PathBuf>,
    pub(super) bases: Vec<BaseRef>,
    pub(super) socket: PathBuf,
    pub(super) socket_group: Option<String>,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) vms: Option<(VmSettings, VmLimits)>,
    #[cfg(feature = "images")]
    pub(super) registry: Option<super::images::Images>,
    /// Whether the stores are told of records of disks alone.
    #[cfg(feature = "images")]
    pub(super) prune_by_leases: bool,
}

impl Options {
    /// These; if one isn't given, that of `file`.
    pub(super) fn or(self, file: Self) -> Self {
        fn list<T>(ours: Vec<T>, theirs: Vec<T>) -> Vec<T> {
            if ours.is_empty() { theirs } else { ours }
        }
        Self {
            images: self.images.or(file.images),
            base: list(self.base, file.base),
            raw_base: list(self.raw_base, file.raw_base),
            targets: list(self.targets, file.targets),
            dir: self.dir.or(file.dir),
            leases: self.leases.or(file.leases),
            max_vms: self.max_vms.or(file.max_vms),
            socket: self.socket.or(file.socket),
            socket_group: self.socket_group.or(file.socket_group),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            creator: self.creator.or(file.creator),
            profile: self.profile.or(file.profile),
            allow_references: self.allow_references || file.allow_references,
            min_free: self.min_free.or(file.min_free),
            restock_interval: self.restock_interval.or(file.restock_interval),
            shelf_idle: self.shelf_idle.or(file.shelf_idle),
            max_creations: self.max_creations.or(file.max_creations),
            create_timeout: self.create_timeout.or(file.create_timeout),
            max_connections: self.max_connections.or(file.max_connections),
            max_connections_per_client: self
                .max_connections_per_client
                .or(file.max_connections_per_client),
            max_disks_per_user: self.max_disks_per_user.or(file.max_disks_per_user),
            request_timeout: self.request_timeout.or(file.request_timeout),
            client_timeout: self.client_timeout.or(file.client_timeout),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            vms: self.vms.or(file.vms),
            language: list(self.language, file.language),
            interpreters: self.interpreters.or(file.interpreters),
            vms_per_user: self.vms_per_user.or(file.vms_per_user),
            session_idle: self.session_idle.or(file.session_idle),
            max_upload: self.max_upload.or(file.max_upload),
            guest_images: self.guest_images.or(file.guest_images),
            accel: self.accel.or(file.accel),
            vm_user: self.vm_user.or(file.vm_user),
            #[cfg(feature = "images")]
            image: list(self.image, file.image),
            #[cfg(feature = "images")]
            raw_image: list(self.raw_image, file.raw_image),
            #[cfg(feature = "images")]
            image_refresh: self.image_refresh.or(file.image_refresh),
            #[cfg(feature = "images")]
            image_limit: self.image_limit.or(file.image_limit),
            #[cfg(feature = "images")]
            prune_by_leases: self.prune_by_leases || file.prune_by_leases,
            #[cfg(feature = "images")]
            image_store: self.image_store.or(file.image_store),
            #[cfg(feature = "images")]
            image_mirror: list(self.image_mirror, file.image_mirror),
            #[cfg(feature = "images")]
            image_plain_http: list(self.image_plain_http, file.image_plain_http),
        }
    }

    /// What they come to, with the defaults of what isn't given.
    pub(super) fn settings(mut self) -> Result<Settings, Failure> {
        let vms = self.vms()?;
        #[cfg(feature = "images")]
        let registry = self.registry()?;
        let raw = self.raw_base.into_iter().map(BaseRef::raw);
        let bases: Vec<_> = self.base.into_iter().map(BaseRef::qcow2).chain(raw).collect();
        #[cfg(feature = "images")]
        let bases: Vec<_> = bases
            .into_iter()
            .chain(registry.iter().flat_map(super::images::Images::bases))
            .collect();
        if self.images.is_none() && bases.is_empty() && vms.is_none() {
            let advice = "name their directory with --images, or one with --base";
            return Err(Failure::new(Exit::Usage, "no base images", advice));
        }
        let pool = PoolConfig::default();
        let references = if self.allow_references { References::Allow } else { References::Deny };
        let pool = PoolConfig {
            max_concurrent_vms: self.max_vms.unwrap_or(pool.max_concurrent_vms),
            pool_dir: self.dir.unwrap_or_else(arguments::pool_dir),
            creator: self.creator.unwrap_or(pool.creator),
            overlay: OverlayOptions {
                profile: self.profile.unwrap_or_default(),
                ..OverlayOptions::default()
            },
            references,
            min_free: self.min_free.unwrap_or(pool.min_free),
            restock_interval: self.restock_interval.unwrap_or(pool.restock_interval),
            shelf_idle: self.shelf_idle.or(pool.shelf_idle),
            max_creations: self.max_creations.map_or(pool.max_creations, NonZeroUsize::get),
            create_timeout: self.create_timeout.unwrap_or(pool.create_timeout),
            images_path: pool.images_path,
            tools: pool.tools,
        };
        let mut limits = Limits::default();
        limits.connections = self.max_connections.map_or(limits.connections, NonZeroUsize::get);
        limits.connections_per_peer =
            self.max_connections_per_client.map_or(limits.connections_per_peer, NonZeroUsize::get);
        limits.disks_per_user =
            self.max_disks_per_user.map_or(limits.disks_per_user, NonZeroUsize::get);
        limits.request_timeout = self.request_timeout.unwrap_or(limits.request_timeout);
        limits.client_timeout = self.client_timeout.unwrap_or(limits.client_timeout);
        limits.drain_timeout = self.drain_timeout.unwrap_or(limits.drain_timeout);
        Ok(Settings {
            pool,
            limits,
            targets: self.targets,
            images: self.images,
            leases: self.leases,
            bases,
            socket: arguments::socket(self.socket)?,
            socket_group: self.socket_group,
            metrics: self.metrics_listen,
            vms,
            #[cfg(feature = "images")]
            registry,
            #[cfg(feature = "images")]
            prune_by_leases: self.prune_by_leases,
        })
    }

    /// What is to be had of registries, if anything is.
    #[cfg(feature = "images")]
    fn registry(&mut self) -> Result<Option<super::images::Images>, Failure> {
        use std::sync::Mutex;

        use overlay_pool::images::{ImageRef, Store};

        let qcow2 = self.image.iter().map(|text| text.parse::<ImageRef>());
        let raw = self.raw_image.iter().map(|text| text.parse().map(ImageRef::raw));
        let told: Vec<_> = qcow2.chain(raw).collect::<Result<_, _>>()?;
        if told.is_empty() {
            return Ok(None);
        }
        let mut options = Vec::new();
        let mirrors = self.image_mirror.iter().map(|mirror| ("--mirror", mirror));
        let plain = self.image_plain_http.iter().map(|registry| ("--plain-http", registry));
        for (option, value) in mirrors.chain(plain) {
            options.extend([option.into(), value.into()]);
        }
        let store = Store::open(self.image_store.take().unwrap_or_else(arguments::store))?;
        let (refresh, limit) = (self.image_refresh, self.image_limit);
        Ok(Some(super::images::Images {
            store,
            told,
            refresh,
            limit,
            options,
            served: Mutex::default(),
        }))
    }

    /// What the VMs are told, if there shall be any.
    fn vms(&mut self) -> Result<Option<(VmSettings, VmLimits)>, Failure> {
        let usage = |cause: String, advice| Failure::new(Exit::Usage, cause, advice);
        let Some(vms) = self.vms else {
            if self.language.is_empty() {
                return Ok(None);
            }
            return Err(usage("--language without VMs".to_owned(), "say how many with --vms"));
        };
        let settings = arguments::vm_settings()?;
        let settings = arguments::with_interpreters(settings, self.interpreters.as_deref())?;
        let warm = match &*std::mem::take(&mut self.language).join(",") {
            "" => Ok(BTreeMap::new()),
            warm => settings.languages.counts(warm),
        };
        let settings = VmSettings {
            max_concurrent_vms: vms.get(),
            warm: warm.map_err(|expected| usage(format!("--language: {expected}"), ""))?,
            dir: self.dir.clone().unwrap_or_else(arguments::pool_dir),
            base_images_dir: self.guest_images.take().unwrap_or(settings.base_images_dir),
            accelerator: self.accel.unwrap_or(settings.accelerator),
            vm_user: self.vm_user.take().or(settings.vm_user),
            ..settings
        };
        let waiting: u32 = settings.warm.values().sum();
        if waiting > vms.get() {
            let cause = format!("--language: {waiting} VMs that wait are more than --vms {vms}");
            return Err(usage(cause, "raise --vms"));
        }
        let mut limits = VmLimits::default();
        limits.per_user = self.vms_per_user.map(NonZeroUsize::get);
        limits.session_idle = self.session_idle.unwrap_or(limits.session_idle);
        let upload = self.max_upload.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        limits.upload = upload.unwrap_or(limits.upload);
        Ok(Some((settings, limits)))
    }
}
