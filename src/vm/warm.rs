//! VMs that wait for code: resumed, renewed, rehearsed once, with an interpreter that has
//! started, and standing still.
//!
//! No two of them share what makes an interpreter one of its own, since each interpreter started
//! after its machine was renewed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::available_parallelism;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::empty;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::alive::{Alive, WAKE};
use super::error::VmError;
use super::execution::End;
use super::guest::{Guest, GuestError, Run};
use super::hashes::Mark;
use super::home::Home;
use super::interpreter::Order;
use super::language::Language;
use super::qemu::QemuError;
use super::workshop::Workshop;

/// How long a caller has the machine to itself before the next member is made.
const LEAVE_ALONE: Duration = Duration::from_millis(100);
/// How often what the members stand on is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// After a failure, no member is made for so long.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a member's interpreter may take to start, and its rehearsal to run.
const REHEARSAL: Duration = Duration::from_secs(60);
/// How many bytes the rehearsal may say.
const SAID: usize = 1 << 10;
/// What the host keeps for others, in MiB, when a member is made.
const SPARED_MIB: u64 = 256;

/// A VM that waits.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) home: Home,
    pub(super) alive: Alive,
    /// What its machine stood on.
    marks: Vec<Mark>,
}

/// How the VMs of one language that wait are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WarmStats {
    /// How many wait.
    pub ready: usize,
    /// How many VMs that waited were given out.
    pub hits: u64,
    /// How often none waited.
    pub misses: u64,
}

/// The members of all languages.
#[derive(Debug)]
pub(super) struct Warm {
    shelves: Mutex<BTreeMap<Language, Shelf>>,
    changed: Arc<Notify>,
    slots: Arc<Semaphore>,
    /// Tells those who make members that their places are needed.
    needed: Notify,
}

#[derive(Debug)]
struct Shelf {
    wanted: usize,
    members: VecDeque<Member>,
    /// How many are being made.
    making: usize,
    asked: Instant,
    hits: u64,
    misses: u64,
}

impl Warm {
    pub(super) fn new(wanted: &BTreeMap<Language, u32>, slots: Arc<Semaphore>) -> Self {
        let shelf = |(language, wanted): (&Language, &u32)| {
            let wanted = usize::try_from(*wanted).unwrap_or(usize::MAX);
            let (members, asked) = (VecDeque::new(), Instant::now());
            (*language, Shelf { wanted, members, making: 0, asked, hits: 0, misses: 0 })
        };
        let shelves = Mutex::new(wanted.iter().map(shelf).collect());
        Self { shelves, changed: Arc::default(), slots, needed: Notify::new() }
    }

    /// A member whose machine stands on what is there now.
    pub(super) fn take(&self, language: Language, marks: &[Mark]) -> Option<Member> {
        let mut shelves = self.shelves();
        let shelf = shelves.get_mut(&language)?;
        shelf.asked = Instant::now();
        let mut unfit = Vec::new();
        let found = loop {
            match shelf.members.pop_front() {
                Some(member) if member.alive.qemu.is_alive() && member.marks == marks => {
                    shelf.hits += 1;
                    break Some(member);
                }
                Some(member) => unfit.push(member),
                None => {
                    shelf.misses += 1;
                    break None;
                }
            }
        };
        drop(shelves);
        self.changed.notify_one();
        found
    }

    /// Gives a member up, so that another VM may take its place; says whether there was one.
    pub(super) fn make_room(&self) -> bool {
        let mut shelves = self.shelves();
        let most = shelves.values_mut().max_by_key(|shelf| shelf.members.len());
        let member = most.and_then(|shelf| shelf.members.pop_back());
        drop(shelves);
        member.is_some()
    }

    /// Has the members that are being made be given up; says whether there are any, whose places are
    /// free a moment later.
    pub(super) fn give_way(&self) -> bool {
        let making = self.making();
        self.needed.notify_waiters();
        making > 0
    }

    /// Gives all members up.
    pub(super) fn clear(&self) {
        drop(self.take_all());
    }

    /// Like [`clear`](Self::clear), and waits for their end.
    pub(super) async fn end(&self) {
        for member in self.take_all() {
            member.alive.qemu.kill().await;
        }
    }

    fn take_all(&self) -> Vec<Member> {
        let mut shelves = self.shelves();
        shelves.values_mut().flat_map(|shelf| std::mem::take(&mut shelf.members)).collect()
    }

    pub(super) fn stats(&self, language: Language) -> WarmStats {
        let shelves = self.shelves();
        let of = |shelf: &Shelf| WarmStats {
            ready: shelf.members.len(),
            hits: shelf.hits,
            misses: shelf.misses,
        };
        shelves.get(&language).map(of).unwrap_or_default()
    }

    /// Gives members up, and makes those that are missing, as many at once as there are processors
    /// for. Says whether all that is possible now is done, and nothing failed.
    async fn keep(&self, workshop: &Workshop) -> bool {
        let processors = available_parallelism().map_or(1, usize::from);
        let cpus = usize::try_from(workshop.settings.cpus).unwrap_or(usize::MAX);
        let at_once = processors.checked_div(cpus).unwrap_or(1).max(1);
        let (mut made, mut more, mut well) = (FuturesUnordered::new(), true, true);
        loop {
            self.look_through(workshop).await;
            while more && made.len() < at_once {
                // Before anybody can see that one is being made.
                let needed = self.needed.notified();
                let Some(making) = self.lacking(workshop) else { break };
                made.push(self.make_unless_needed(workshop, making, needed));
            }
            match made.next().await {
                None => return well,
                Some(Ok(true)) => {}
                Some(Ok(false)) => more = false,
                Some(Err(())) => (more, well) = (false, false),
            }
        }
    }

    /// Makes a member, unless its place is needed; says whether it did.
    async fn make_unless_needed(
        &self,
        workshop: &Workshop,
        making: Making<'_>,
        needed: Notified<'_>,
    ) -> Result<bool, ()> {
        let language = making.language;
        let made = tokio::select! {
            made = self.make(workshop, language) => made,
            () = needed => return Ok(false),
        };
        match made {
            Ok(Some(member)) => making.done(member),
            Ok(None) => return Ok(false),
            Err(error) => {
                tracing::warn!(%language, %error, "no VM made to wait");
                return Err(());
            }
        }
        Ok(true)
    }

    /// Gives up members that nobody asked for in a long time, that died, or whose machine's files
    /// have changed.
    async fn look_through(&self, workshop: &Workshop) {
        let languages: Vec<_> = self.shelves().keys().copied().collect();
        for language in languages {
            let marks = workshop.machine(language).await.ok().map(|(_, marks)| marks);
            let mut shelves = self.shelves();
            let Some(shelf) = shelves.get_mut(&language) else { continue };
            let idle = shelf.is_idle(workshop.settings.warm_idle);
            let fits = |member: &Member| {
                !idle && member.alive.qemu.is_alive() && Some(&member.marks) == marks.as_ref()
            };
            let (fit, unfit): (_, VecDeque<_>) =
                std::mem::take(&mut shelf.members).into_iter().partition(fits);
            shelf.members = fit;
            drop(shelves);
            // Their processes and files go without the lock.
            drop(unfit);
        }
    }

    /// The member that is to be made next: of the language that lacks most.
    fn lacking(&self, workshop: &Workshop) -> Option<Making<'_>> {
        let mut shelves = self.shelves();
        let idle = workshop.settings.warm_idle;
        let lacks = |shelf: &Shelf| shelf.wanted.saturating_sub(shelf.members.len() + shelf.making);
        let lacking =
            shelves.iter_mut().filter(|(_, shelf)| lacks(shelf) > 0 && !shelf.is_idle(idle));
        let (language, shelf) = lacking.max_by_key(|(_, shelf)| lacks(shelf))?;
        shelf.making += 1;
        Some(Making { warm: self, language: *language })
    }

    /// How many members are being made.
    fn making(&self) -> usize {
        self.shelves().values().map(|shelf| shelf.making).sum()
    }

    /// Makes a member; none if there may be no more VMs, or the host's memory is short.
    async fn make(
        &self,
        workshop: &Workshop,
        language: Language,
    ) -> Result<Option<Member>, VmError> {
        let (machine, marks) = workshop.machine(language).await?;
        // Others that are being made may not have taken theirs yet.
        let making = u64::try_from(self.making()).unwrap_or(1);
        let memory = u64::from(machine.memory_mib) * making + SPARED_MIB;
        if available_mib().is_some_and(|available| available < memory) {
            tracing::debug!(%language, "memory is short: no VM made to wait");
            return Ok(None);
        }
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { return Ok(None) };
        let home = workshop.home(Some(slot), None)?;
        let address = home.address();
        let interpreter = language.interpreter().start_to_rehearse();
        let mut alive = workshop.bring_up(&address, &machine, None, interpreter).await?;
        let autopsy = workshop.autopsy(&address.id);
        let rehearsed = tokio::select! {
            rehearsed = rehearse(alive.guest.get_mut(), language) => rehearsed,
            () = alive.qemu.no_space() => return Err(autopsy.no_space(&address.disk())),
        };
        if let Err(error) = rehearsed {
            return Err(autopsy.examine(&alive.qemu, error).await);
        }
        let stopped = timeout(WAKE, alive.qemu.stop()).await;
        stopped.unwrap_or(Err(QemuError::Timeout)).map_err(|error| match error {
            QemuError::Vm(error) => error,
            error => autopsy.stillborn(error, WAKE),
        })?;
        tracing::info!(vm = address.id, %language, "waits");
        Ok(Some(Member { home, alive, marks }))
    }

    fn shelves(&self) -> MutexGuard<'_, BTreeMap<Language, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps as many members as are wanted, as long as there is anybody who wants them.
pub(super) async fn keep_filled(warm: Weak<Warm>, workshop: Weak<Workshop>) {
    let Some(changed) = warm.upgrade().map(|warm| Arc::clone(&warm.changed)) else { return };
    while let (Some(warm), Some(workshop)) = (warm.upgrade(), workshop.upgrade()) {
        let done = warm.keep(&workshop).await;
        // Whoever drops them need not wait for this task.
        drop((warm, workshop));
        if !done {
            sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            () = changed.notified() => sleep(LEAVE_ALONE).await,
            () = sleep(LOOK) => {}
        }
    }
}

/// A member is being made until this is dropped.
struct Making<'a> {
    warm: &'a Warm,
    language: Language,
}

impl Making<'_> {
    fn done(self, member: Member) {
        if let Some(shelf) = self.warm.shelves().get_mut(&self.language) {
            shelf.members.push_back(member);
        }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if let Some(shelf) = self.warm.shelves().get_mut(&self.language) {
            shelf.making -= 1;
        }
    }
}

impl Shelf {
    fn is_idle(&self, patience: Duration) -> bool {
        self.asked.elapsed() > patience
    }
}

/// Takes the way that a caller's code will, once, and lets the next interpreter wait.
async fn rehearse(guest: &mut Guest, language: Language) -> Result<(), GuestError> {
    let interpreter = language.interpreter();
    let deadline = Instant::now() + REHEARSAL;
    if let Some(Order { start, code, file }) = interpreter.rehearsal() {
        let run = Run { start: start.as_ref(), code: &code, file, limit: SAID, deadline };
        let (output, mut said) = mpsc::channel(4);
        let (ran, ()) = tokio::join!(guest.run(run, empty(), output), async {
            while said.recv().await.is_some() {}
        });
        let end = ran?.end;
        if end != End::Code(0) {
            return Err(GuestError::Refused(format!("the rehearsal ended with {end:?}")));
        }
    }
    if let Some(start) = interpreter.start() {
        guest.prepare(&start)?;
        guest.prepared(deadline).await?;
    }
    Ok(())
}

/// How much memory the host has left, if it tells.
fn available_mib() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib >> 10)
}
