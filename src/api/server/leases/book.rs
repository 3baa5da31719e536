//! All records: in memory, and each in a file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::error::LeaseError;
use super::key::{Claims, Key};
use super::record::{Record, name};
use super::seal::{self, Seal};
use crate::api::server::acceptor::is_exhausted;
use crate::api::server::access::Access;
use crate::api::server::room::{Counts, Room};
use crate::place::Store;

/// The records of one server.
#[derive(Debug)]
pub(in crate::api::server) struct Book {
    place: RwLock<Place>,
    kept: Mutex<BTreeMap<Key, Kept>>,
    counts: Counts,
}

/// The directory of the records.
#[derive(Debug)]
struct Place {
    store: Arc<Store>,
    seal: Seal,
}

#[derive(Debug)]
struct Kept {
    record: Arc<Record>,
    #[expect(dead_code, reason = "it is held")]
    room: Option<Room>,
}

impl Book {
    /// Reads all records. A file that is none stays, with a warning.
    pub(super) fn open(place: &Path) -> Result<Self, LeaseError> {
        let failed = |source| LeaseError::io(place, source);
        let store = Store::open(place).map_err(failed)?;
        let (mut kept, counts) = (BTreeMap::new(), Counts::default());
        for name in names(&store).map_err(failed)? {
            match read(&store, &name) {
                Ok(record) => {
                    // What there is counts, however little there may be by now.
                    let room = counts.take(record.uid, usize::MAX);
                    kept.insert(record.key(), Kept { record: Arc::new(record), room });
                }
                // Nothing is known of it, and later it may be read.
                Err(source) if is_exhausted(&source) => return Err(failed(source)),
                Err(error) => {
                    let file = store.path().join(&name);
                    tracing::warn!(file = %file.display(), %error, "no record of a disk; remove it");
                }
            }
        }
        let seal = sealed(&store).map_err(failed)?;
        tracing::debug!(place = %place.display(), count = kept.len(), "leases");
        let place = RwLock::new(Place { store: Arc::new(store), seal });
        Ok(Self { place, kept: Mutex::new(kept), counts })
    }

    pub(super) fn find(&self, key: &Key) -> Option<Arc<Record>> {
        self.kept().get(key).map(|kept| Arc::clone(&kept.record))
    }

    /// All that are chosen, by user and id.
    pub(super) fn list(&self, chosen: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        let kept = self.kept();
        let records = kept.values().map(|kept| &kept.record);
        records.filter(|record| chosen(record)).cloned().collect()
    }

    pub(in crate::api::server) fn count(&self) -> usize {
        self.kept().len()
    }

    /// How many disks there are of each base image, by its resolved path.
    pub(in crate::api::server) fn by_base(&self) -> HashMap<PathBuf, usize> {
        let mut counts = HashMap::new();
        for Kept { record, .. } in self.kept().values() {
            *counts.entry(record.answer.base.clone()).or_default() += 1;
        }
        counts
    }

    /// Writes a record, before there is such a disk.
    pub(super) fn write(&self, record: &Record) -> Result<(), LeaseError> {
        let store = self.store();
        let written = store.is_gone().and_then(|is_gone| {
            let store = if is_gone { self.again()? } else { Arc::clone(&store) };
            write(&store, record)
        });
        written.map_err(|source| LeaseError::io(store.path(), source))
    }

    /// The directory, made again with all records that there are, since nobody finds it any more.
    fn again(&self) -> io::Result<Arc<Store>> {
        let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
        if place.store.is_gone()? {
            let again = Store::open(place.store.path())?;
            // One that is forgotten meanwhile is of a disk that is gone, as the next server sees.
            self.list(|_| true).iter().try_for_each(|record| write(&again, record))?;
            // The one before may be there again, as one that was below a mount, without what comes now.
            let seal = if place.store.is_removed()? { place.seal.clone() } else { Seal::new() };
            seal.put(&again)?;
            tracing::warn!(place = %again.path().display(), "directory of leases made again");
            *place = Place { store: Arc::new(again), seal };
        }
        Ok(Arc::clone(&place.store))
    }

    fn store(&self) -> Arc<Store> {
        Arc::clone(&self.place.read().unwrap_or_else(PoisonError::into_inner).store)
    }

    /// All that the disks need: their base images, and what those refer to.
    pub(super) fn needs(&self) -> BTreeSet<PathBuf> {
        let kept = self.kept();
        kept.values().flat_map(|kept| kept.record.all_needs().cloned()).collect()
    }

    /// Room for one more disk of a user, who may have `most`.
    pub(super) fn room(&self, uid: u32, most: usize) -> Option<Room> {
        self.counts.take(uid, most)
    }

    /// From now on there is this disk.
    pub(super) fn keep(&self, record: Arc<Record>, room: Room) {
        self.kept().insert(record.key(), Kept { record, room: Some(room) });
    }

    /// Forgets a record: there is no such disk, or its user wants none.
    pub(super) fn forget(&self, record: &Record) -> Result<(), LeaseError> {
        let store = self.store();
        let removed = store.remove(&record.name());
        removed.map_err(|source| LeaseError::io(store.path(), source))?;
        self.kept().remove(&record.key());
        Ok(())
    }

    /// Forgets a record whose disk isn't where it was put, unless it may come back there; says whether
    /// that was done.
    pub(super) fn forget_gone(&self, record: &Record) -> Result<bool, LeaseError> {
        let is_gone = record.is_gone_for_good();
        if is_gone {
            self.forget(record)?;
        }
        Ok(is_gone)
    }

    /// Removes what was written of a disk that there never was.
    pub(super) fn erase(&self, key: &Key) -> io::Result<()> {
        self.store().remove(&name(key))
    }

    /// Forgets those whose disks are gone, but for those that something is being done with.
    pub(super) fn look(&self, claims: &Claims, access: &Access) {
        for record in self.list(|_| true) {
            let Some(claim) = claims.try_claim(record.key()) else { continue };
            // Meanwhile it may have been removed, and another made.
            let Some(record) = self.find(claim.key()) else { continue };
            let target = record.answer.target.display();
            match record.is_there(access) {
                Ok(true) => {}
                Ok(false) => match self.forget_gone(&record) {
                    Ok(false) => {
                        tracing::warn!(%target, "the disk's filesystem isn't mounted; its lease stays");
                    }
                    forgotten => {
                        tracing::info!(%target, ?forgotten, "the disk is gone, and its lease");
                    }
                },
                Err(error) => tracing::warn!(%error, "whether the disk is there isn't known"),
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Key, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells a directory of records from any other at its path; none if there are no records there yet.
///
/// # Errors
///
/// Those of the system.
pub fn leases_seal(directory: &Path) -> io::Result<Option<String>> {
    let store = match Store::open_to_read(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        store => store?,
    };
    Ok(Seal::of(&store)?.map(|seal| seal.as_str().to_owned()))
}

/// The resolved paths of the base images of all disks that there are records of in the directory with this
/// [seal](leases_seal), and of what those refer to, whichever server keeps them there.
///
/// # Errors
///
/// Those of the system, of which [`io::ErrorKind::NotFound`] is for any other directory too; and if a file
/// there, which is named, is no such record: then any base image may be in use.
pub fn leased_bases(directory: &Path, seal: &str) -> io::Result<BTreeSet<PathBuf>> {
    let store = Store::open_to_read(directory)?;
    let mut bases = BTreeSet::new();
    for name in names(&store)? {
        match read(&store, &name) {
            Ok(record) => bases.extend(record.all_needs().cloned()),
            // The disk was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let why = format!("{name} is no record of a disk: {error}");
                return Err(io::Error::new(error.kind(), why));
            }
        }
    }
    // It is put there last, and goes with the directory.
    if Seal::of(&store)?.is_some_and(|found| found.as_str() == seal) {
        Ok(bases)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The seal of a directory, which gets one if it has none.
fn sealed(store: &Store) -> io::Result<Seal> {
    if let Some(seal) = Seal::of(store)? {
        return Ok(seal);
    }
    let seal = Seal::new();
    seal.put(store).map(|()| seal)
}

/// The names of all records.
fn names(store: &Store) -> io::Result<Vec<String>> {
    Ok(store.names()?.into_iter().filter(|name| name != seal::FILE).collect())
}

fn write(store: &Store, record: &Record) -> io::Result<()> {
    store.write(&record.name(), &serde_json::to_vec(record)?)
}

fn read(store: &Store, name: &str) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(&store.read(name)?)?;
    if record.name() != name {
        return Err(io::Error::other("it is another one's"));
    }
    Ok(record)
}
