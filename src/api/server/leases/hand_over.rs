//! `POST /v1/acquire` with an id: the same request again gives the same answer.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::http::StatusCode;
use rustix::io::Errno;

use super::book::Book;
use super::boot::Boot;
use super::key::{Claim, Key};
use super::record::Record;
use crate::api::server::caller::Caller;
use crate::api::server::open::Aside;
use crate::api::server::refused::{expect_listening, expect_there, failed, refused};
use crate::api::server::state::Shared;
use crate::api::wire::{AcquireAnswer, AcquireRequest, Label, Problem};
use crate::error::Error;
use crate::image::{BaseRef, References, references_of};
use crate::place::{Draft, FileId, Spot, Target};
use crate::pool::PREFIX;

/// How much of an overlay is copied at once.
const BLOCK: usize = 64 << 10;

/// A disk that is where it shall be, and its record.
struct HandedOver {
    book: Arc<Book>,
    record: Arc<Record>,
    /// Where it was put by this request; none if that was done before.
    put: Option<Spot>,
    #[expect(dead_code, reason = "it is held")]
    claim: Claim,
}

impl HandedOver {
    /// Undoes what this request did. A disk that can't be removed keeps its lease.
    fn take_back(self) {
        let Some(spot) = self.put else { return };
        let removed = self.record.remove_at(&spot);
        let forgotten = removed.is_ok().then(|| self.book.forget(&self.record));
        let target = spot.path().display();
        tracing::warn!(%target, ?removed, ?forgotten, "taken back, its time was over");
    }
}

/// Hands one overlay over, or says again what was handed over.
pub(in crate::api::server) async fn acquire(
    shared: &Shared,
    caller: Caller,
    id: Label,
    request: AcquireRequest,
) -> Result<Json<AcquireAnswer>, Problem> {
    let book = shared.leases.book(&shared.turns).await?;
    // Before a turn, so that whoever waits for another keeps no thread.
    let claim = shared.leases.claims.claim(Key { uid: caller.peer.uid(), id }).await;
    let all = Arc::clone(shared);
    let work = async move |caller: &Caller| hand_over(&all, caller, book, claim, request).await;
    let undo = |done: Result<HandedOver, Problem>| _ = done.map(HandedOver::take_back);
    let done = caller.take_turn(&shared.turns, work, undo).await??;
    Ok(Json(done.record.answer.clone()))
}

async fn hand_over(
    shared: &Shared,
    caller: &Caller,
    book: Arc<Book>,
    claim: Claim,
    request: AcquireRequest,
) -> Result<HandedOver, Problem> {
    if let Some(record) = book.find(claim.key()) {
        if record.is_there(&shared.access)? {
            if record.request != request {
                return Err(taken(&record));
            }
            record.all_needs().for_each(|base| shared.access.tell_of(base));
            return Ok(HandedOver { book, record, put: None, claim });
        }
        if !book.forget_gone(&record)? {
            return Err(elsewhere(&record));
        }
    }
    let most = if caller.peer.is_administrator() { usize::MAX } else { shared.leases.per_user };
    let room = book.room(claim.key().uid, most).ok_or_else(|| too_many(most))?;
    let since = Instant::now();
    let AcquireRequest { base, format, target, virtual_size, .. } = &request;
    let (directory, real) =
        shared.access.target(target).map_err(|error| refused(shared, base, error))?;
    let bad_target =
        |(target, source)| failed(shared, Error::Target { base: base.clone(), target, source });
    let target =
        Target::found_at(real, directory, target.clone()).absolute().map_err(bad_target)?;
    let spot = target.open().map_err(bad_target)?;
    if spot.exists() {
        return Err(failed(shared, Error::AlreadyExists { target: spot.into_path() }));
    }
    if let Err(why) = spot.expect_outside(PREFIX) {
        return Err(bad_target((spot.into_path(), why)));
    }
    if let Err(why) = FileId::expect_to_last(&spot) {
        return Err(bad_target((spot.into_path(), why)));
    }
    let image = shared.judged(&BaseRef { path: base.clone(), format: *format });
    let image = image.map_err(|error| refused(shared, base, error))?;
    let needs = match shared.pool.config().references {
        References::Deny => BTreeSet::new(),
        References::Allow => references_of(image.path()),
    };
    expect_listening(caller)?;
    let aside = shared.open_files.acquire(&shared.pool, image, *virtual_size).await?;
    let took = since.elapsed();
    let source = aside.source;
    let Key { uid, id } = claim.key().clone();
    let answer = AcquireAnswer {
        source: source.into(),
        base: aside.base.clone(),
        target: spot.path().to_owned(),
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    let base = request.base.clone();
    let directory = FileId::of(spot.directory()).ok();
    let boot = Boot::ending(spot.directory())
        .map_err(|source| bad_target((spot.path().to_owned(), source)))?;
    let were_there: Vec<_> = needs.iter().filter(|base| base.exists()).cloned().collect();
    let record = |file| Record {
        uid,
        id: id.clone(),
        request: request.clone(),
        answer: answer.clone(),
        file,
        directory: directory.clone(),
        needs: needs.clone(),
        boot: boot.clone(),
        aside: format!(".{:032x}.removed", rand::random::<u128>()),
    };
    // From the record on, and before there is the disk, whose base image is looked for after that.
    let tell = |record: &Record| record.all_needs().for_each(|base| shared.access.tell_of(base));
    let record = put(&book, aside, &spot, record, tell).map_err(|error| {
        // Nothing leads to it, so it is written over if this fails.
        let _ = book.erase(claim.key());
        let target = spot.path().to_owned();
        match error {
            NotPut::Record(error) => {
                shared.traffic.acquire_failures.inc();
                error.into()
            }
            NotPut::Disk(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                failed(shared, Error::AlreadyExists { target })
            }
            NotPut::Disk(source) => failed(shared, Error::Target { base, target, source }),
        }
    })?;
    let record = Arc::new(record);
    let is_there = were_there.iter().try_for_each(|base| expect_there(base));
    if let Err(gone) = is_there.and_then(|()| expect_there(&record.answer.base)) {
        // Nobody was told of it yet.
        let removed = record.remove_at(&spot);
        if removed.is_ok() {
            let _ = book.erase(claim.key());
        }
        tracing::warn!(target = %spot.path().display(), ?removed, "taken back, its base image is gone");
        return Err(failed(shared, gone.into()));
    }
    book.keep(Arc::clone(&record), room);
    shared.traffic.handed_over(source, took);
    shared.held.note(&record.answer.base, &shared.turns);
    tracing::debug!(peer = %caller.peer, target = %spot.path().display(), ?source, ?took, "acquire with an id");
    Ok(HandedOver { book, record, put: Some(spot), claim })
}

/// Why a disk isn't where it shall be.
enum NotPut {
    Record(super::error::LeaseError),
    Disk(io::Error),
}

/// Writes a record of an overlay and moves it to its target. If it can't be moved there, a copy is
/// made there.
fn put(
    book: &Book,
    aside: Aside,
    spot: &Spot,
    record: impl Fn(FileId) -> Record,
    tell: impl Fn(&Record),
) -> Result<Record, NotPut> {
    let overlay = aside.entry.open().map_err(NotPut::Disk)?;
    let written = |file: &File| {
        let record = record(FileId::of(file).map_err(NotPut::Disk)?);
        book.write(&record).map_err(NotPut::Record)?;
        tell(&record);
        Ok(record)
    };
    let recorded = written(&overlay)?;
    match aside.entry.move_to(spot) {
        Ok(()) => return Ok(recorded),
        Err((_, Errno::XDEV)) => {}
        Err((_, errno)) => return Err(NotPut::Disk(errno.into())),
    }
    let draft = Draft::begin(spot).map_err(NotPut::Disk)?;
    copy(&overlay, draft.file()).map_err(NotPut::Disk)?;
    let recorded = written(draft.file())?;
    draft.finish().map_err(NotPut::Disk)?;
    Ok(recorded)
}

/// Copies a file, holes as holes.
fn copy(from: &File, to: &File) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        let count = from.read_at(&mut block, at)?;
        if count == 0 {
            return to.set_len(at);
        }
        if block[..count].iter().any(|byte| *byte != 0) {
            to.write_all_at(&block[..count], at)?;
        }
        at += count as u64;
    }
}

fn too_many(most: usize) -> Problem {
    let detail = format!(
        "your user has {most} disks with an id and may have no more; remove some (DELETE \
         /v1/disks/…), or have the server allow more (--max-disks-per-user)"
    );
    Problem::new(StatusCode::FORBIDDEN, "too-many-disks", detail)
}

/// The id means another disk than the request does.
pub(super) fn taken(record: &Record) -> Problem {
    let detail = format!(
        "id {}: it is the disk's at {}, which was asked for otherwise; choose another id, or remove \
         that disk first",
        record.id,
        record.answer.target.display()
    );
    Problem::new(StatusCode::CONFLICT, "id-taken", detail)
}

/// The disk with this id isn't there now, and may be again.
fn elsewhere(record: &Record) -> Problem {
    let detail = format!(
        "id {0}: it is the disk's at {1}, which isn't there now, as on a filesystem that isn't mounted; \
         mount that, or remove the disk (DELETE /v1/disks/{0})",
        record.id,
        record.answer.target.display()
    );
    Problem::new(StatusCode::CONFLICT, "id-taken", detail)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::api::wire::Source;

    /// A disk with an id, handed over in this folder, and its records.
    async fn handed_over(folder: &Path) -> HandedOver {
        let disk = folder.join("disk");
        fs::write(&disk, "a disk").expect("a disk");
        let id = Label::try_from("one".to_owned()).expect("a label");
        let request: AcquireRequest = serde_json::from_value(
            serde_json::json!({ "base": "/base", "target": &disk, "id": "one" }),
        )
        .expect("a request");
        let base = request.base.clone();
        let answer =
            AcquireAnswer { source: Source::Pooled, base, target: disk.clone(), took_us: 1 };
        let file = FileId::of(File::open(&disk).expect("it opens")).expect("its id");
        let aside = ".aside".to_owned();
        let (directory, needs, boot) = (None, BTreeSet::new(), None);
        let record = Record { uid: 1, id, request, answer, file, directory, needs, boot, aside };
        let record = Arc::new(record);
        let book = Arc::new(Book::open(&folder.join("leases")).expect("records"));
        book.write(&record).expect("it is written");
        let room = book.room(1, 1).expect("room for it");
        book.keep(Arc::clone(&record), room);
        let claim = super::super::key::Claims::default().claim(record.key()).await;
        let spot = Target::from(disk.as_path()).open().expect("its directory opens");
        HandedOver { book, record, put: Some(spot), claim }
    }

    /// How many the next server would find.
    fn records(folder: &Path) -> usize {
        let names = fs::read_dir(folder.join("leases")).expect("a folder").flatten();
        names.filter(|entry| entry.file_name() != super::super::seal::FILE).count()
    }

    /// Its client was told that nothing was handed over.
    #[tokio::test]
    async fn what_is_taken_back_is_gone_with_its_lease() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = handed_over(folder.path()).await;
        let book = Arc::clone(&made.book);
        made.take_back();
        assert!(!folder.path().join("disk").exists());
        assert_eq!(book.count(), 0);
        assert_eq!(records(folder.path()), 0);
    }

    /// Else nothing would lead to it any more.
    #[tokio::test]
    async fn a_disk_that_cannot_be_taken_back_keeps_its_lease() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = handed_over(folder.path()).await;
        let book = Arc::clone(&made.book);
        fs::create_dir(folder.path().join(".aside")).expect("it is in the way");
        made.take_back();
        assert!(folder.path().join("disk").exists());
        assert_eq!(book.count(), 1);
        assert_eq!(records(folder.path()), 1);
    }

    /// What another request had done before stays.
    #[tokio::test]
    async fn only_what_this_request_did_is_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = handed_over(folder.path()).await;
        let book = Arc::clone(&made.book);
        HandedOver { put: None, ..made }.take_back();
        assert!(folder.path().join("disk").exists());
        assert_eq!(book.count(), 1);
    }

    /// Whatever is in it, and a hole of it takes no disk.
    #[test]
    fn a_copy_has_the_same_bytes_and_holes() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().expect("a folder");
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, vec![7; BLOCK]).expect("a file without zeros");
        let file = File::options().read(true).write(true).open(&from).expect("it opens");
        file.write_all_at(b"end", 20 * BLOCK as u64).expect("a hole before it");
        copy(&file, &File::create_new(&to).expect("a file")).expect("a copy");
        assert!(fs::read(&to).expect("the copy") == fs::read(&from).expect("the file"));
        let taken = to.metadata().expect("it is there").blocks() * 512;
        assert!(taken < 10 * BLOCK as u64, "{taken} bytes");
    }
}
