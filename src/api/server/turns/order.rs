//! Whose turn it is, and how many work at once.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::LazyLock;
use std::thread;

/// On how many threads one user's work is at once.
pub(super) const OF_ONE: usize = 16;
/// How many work at once, but for those whose work keeps them.
pub(super) static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from).min(OF_ONE));
/// For so many turns after one that was another user's than that before, several users ask.
const SHARED: u64 = 10_000;
/// How many answers to one user are given together at most.
pub(super) const TOGETHER: usize = 16;

/// Is told how many turns others had since it was added.
pub(super) type Work = Box<dyn FnOnce(u64) + Send>;

/// Tells a client what was done for it.
pub(super) type Answer = Box<dyn FnOnce() + Send>;

/// All work that waits, and for whom some is being done.
#[derive(Debug, Default)]
pub(super) struct Order {
    users: HashMap<u32, User>,
    /// Whose turn it is, and who comes next: those who have work that may begin.
    next: VecDeque<u32>,
    /// How many turns there were.
    begun: u64,
    /// Whose turn it was last, and when it had been another's before.
    last: Option<u32>,
    changed: Option<u64>,
    /// How often was looked after those that their work keeps.
    looks: u64,
    /// How many threads work since the last look, and since the one before it.
    working: [usize; 2],
}

#[derive(Default)]
struct User {
    /// With how many turns there had been when it came.
    waiting: VecDeque<(Work, u64)>,
    running: usize,
    in_order: bool,
    /// What is told together with what is done next.
    answers: Vec<Answer>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waiting, {} running", self.waiting.len(), self.running)
    }
}

/// Work that has its turn.
pub(super) struct Turn {
    pub(super) work: Work,
    /// How many turns there were since it was added.
    pub(super) meanwhile: u64,
    /// What its user is told before: no work of that user's waits behind this.
    pub(super) answers: Vec<Answer>,
    pub(super) place: Place,
}

/// Whose work is being done, and since which look.
pub(super) struct Place {
    uid: u32,
    since: u64,
}

impl Order {
    pub(super) fn add(&mut self, uid: u32, work: Work) {
        let begun = self.begun;
        self.users.entry(uid).or_default().waiting.push_back((work, begun));
        self.put_in_order(uid);
    }

    /// Forgets all work that waits. No thread is there then, and so no answer is kept.
    pub(super) fn clear(&mut self) {
        self.next.clear();
        self.users.retain(|_, user| {
            (user.waiting, user.in_order) = (VecDeque::new(), false);
            user.running > 0
        });
    }

    /// Whether there is work that may begin as soon as a thread may.
    pub(super) fn is_waiting(&self) -> bool {
        !self.next.is_empty()
    }

    /// Whether a thread may begin work now.
    pub(super) fn has_work(&self) -> bool {
        self.is_waiting() && self.working.iter().sum::<usize>() < self.at_once()
    }

    /// How many threads may work at once.
    fn at_once(&self) -> usize {
        let is_shared = self.changed.is_some_and(|turn| self.begun - turn < SHARED);
        if is_shared { PROCESSORS.div_ceil(2) } else { *PROCESSORS }
    }

    /// The work to begin now, if a thread may.
    pub(super) fn begin(&mut self) -> Option<Turn> {
        if !self.has_work() {
            return None;
        }
        let (uid, work, meanwhile) = self.next()?;
        self.working[0] += 1;
        let last = self.users.get_mut(&uid).filter(|user| !user.in_order);
        let answers = last.map(|user| mem::take(&mut user.answers)).unwrap_or_default();
        Some(Turn { work, meanwhile, answers, place: Place { uid, since: self.looks } })
    }

    /// It is done.
    pub(super) fn end(&mut self, Place { uid, since }: Place) {
        let looks = usize::try_from(self.looks - since).unwrap_or(usize::MAX);
        if let Some(working) = self.working.get_mut(looks) {
            *working -= 1;
        }
        self.done(uid);
    }

    /// Keeps an answer for as long as its user has work that may begin, until there are enough to be
    /// given together. Gives those that are to be given now.
    pub(super) fn keep(&mut self, uid: u32, answer: Answer) -> Vec<Answer> {
        let Some(user) = self.users.get_mut(&uid) else { return vec![answer] };
        user.answers.push(answer);
        let is_kept = user.in_order && user.answers.len() < TOGETHER;
        if is_kept { Vec::new() } else { mem::take(&mut user.answers) }
    }

    /// From now on those that worked at the last look already don't count. Gives all answers that were
    /// kept.
    pub(super) fn look(&mut self) -> Vec<Answer> {
        self.working = [0, self.working[0]];
        self.looks += 1;
        self.users.values_mut().flat_map(|user| mem::take(&mut user.answers)).collect()
    }

    /// Lets a user have another turn, if it has work that may begin.
    fn put_in_order(&mut self, uid: u32) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        if !user.in_order && user.has_work() {
            user.in_order = true;
            self.next.push_back(uid);
        }
    }

    fn next(&mut self) -> Option<(u32, Work, u64)> {
        let uid = self.next.pop_front()?;
        let user = self.users.get_mut(&uid)?;
        user.in_order = false;
        user.running += 1;
        let (work, before) = user.waiting.pop_front()?;
        self.put_in_order(uid);
        let meanwhile = self.begun - before;
        if self.last.replace(uid).is_some_and(|last| last != uid) {
            self.changed = Some(self.begun);
        }
        self.begun += 1;
        Some((uid, work, meanwhile))
    }

    fn done(&mut self, uid: u32) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        user.running -= 1;
        if user.running == 0 && user.waiting.is_empty() {
            self.users.remove(&uid);
        } else {
            self.put_in_order(uid);
        }
    }
}

impl User {
    fn has_work(&self) -> bool {
        self.running < OF_ONE && !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::iter::from_fn;

    use super::{OF_ONE, Order, PROCESSORS, Place, SHARED, TOGETHER};

    fn order(waiting: &[(u32, usize)]) -> Order {
        let mut order = Order::default();
        for (uid, count) in waiting {
            for _ in 0..*count {
                order.add(*uid, Box::new(|_| ()));
            }
        }
        order
    }

    /// Has as many threads begin as may.
    fn begin_all(order: &mut Order) -> Vec<Place> {
        from_fn(|| order.begin()).map(|turn| turn.place).collect()
    }

    fn end_all(order: &mut Order, begun: Vec<Place>) {
        for place in begun {
            order.end(place);
        }
    }

    #[test]
    fn users_take_turns_whatever_each_has_waiting() {
        let mut order = order(&[(1, 1000), (2, 3), (3, 1)]);
        let turns: Vec<_> = (0..8).map(|_| order.next().expect("work").0).collect();
        assert_eq!(turns, [1, 2, 3, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn one_user_leaves_threads_for_others() {
        let mut order = order(&[(1, 1000)]);
        assert_eq!((from_fn(|| order.next()).count(), order.is_waiting()), (OF_ONE, false));
        order.done(1);
        assert!(order.next().is_some() && order.next().is_none(), "one more for each that is done");
    }

    #[test]
    fn nothing_is_remembered_of_who_is_done() {
        let mut order = order(&[(1, 2)]);
        for _ in 0..2 {
            let (uid, ..) = order.next().expect("work");
            order.done(uid);
        }
        assert!(order.users.is_empty() && !order.is_waiting());
    }

    /// Where no thread can be had for it.
    #[test]
    fn what_waits_can_be_forgotten() {
        let mut order = order(&[(1, 2), (2, 2)]);
        drop(order.next().expect("work"));
        order.clear();
        assert!(!order.is_waiting() && order.users.len() == 1, "one is being done");
        order.add(1, Box::new(|_| ()));
        let (uid, _, meanwhile) = order.next().expect("what comes later isn't");
        assert_eq!((uid, meanwhile), (1, 0));
        order.done(1);
        order.done(1);
        assert!(order.users.is_empty());
    }

    /// As many as there are processors, and more as soon as these don't get on.
    #[test]
    fn threads_that_their_work_keeps_do_not_count() {
        let mut order = order(&[(1, 1000)]);
        let kept = begin_all(&mut order);
        assert_eq!(kept.len(), *PROCESSORS);
        drop(order.look());
        assert!(!order.has_work(), "they may have begun just before");
        drop(order.look());
        let others = begin_all(&mut order);
        assert_eq!(others.len(), *PROCESSORS, "in the place of those that are kept");
        end_all(&mut order, kept);
        assert!(!order.has_work(), "which don't count when they end either");
        drop(order.look());
        end_all(&mut order, others);
        assert_eq!(begin_all(&mut order).len(), *PROCESSORS);
    }

    /// As many as go together; those before the last piece of work, which may take long; and all when
    /// somebody looks.
    #[test]
    fn answers_are_kept_while_their_user_has_a_turn_to_come() {
        let mut order = order(&[(1, TOGETHER + 2), (2, 2)]);
        let keep = |order: &mut Order, uid| order.keep(uid, Box::new(|| ())).len();
        let kept: Vec<_> = (0..=TOGETHER).map(|_| keep(&mut order, 1)).collect();
        assert_eq!(kept, [vec![0; TOGETHER - 1], vec![TOGETHER, 0]].concat());
        assert_eq!(
            (keep(&mut order, 2), keep(&mut order, 3)),
            (0, 1),
            "another has nothing waiting"
        );
        assert_eq!((order.look().len(), order.look().len()), (2, 0));
        assert_eq!((keep(&mut order, 1), keep(&mut order, 2)), (0, 0));
        let mut begin = || {
            let turn = order.begin().expect("work");
            let begun = (turn.place.uid, turn.answers.len());
            order.end(turn.place);
            begun
        };
        assert_eq!([(); 4].map(|()| begin()), [(1, 0), (2, 0), (1, 0), (2, 1)]);
        assert!((4..TOGETHER + 3).all(|_| begin() == (1, 0)));
        assert_eq!(begin(), (1, 1));
        assert_eq!(keep(&mut order, 1), 1, "nothing of it waits");
    }

    /// One has all of them, and half while another asks too.
    #[test]
    fn users_who_take_turns_leave_processors_for_their_clients() {
        let turns = usize::try_from(SHARED).expect("so many");
        let mut order = order(&[(1, 2 * turns), (2, 1)]);
        let mut at_once_after = |expected| {
            let turn = order.begin().expect("work");
            assert_eq!(turn.place.uid, expected);
            order.end(turn.place);
            order.at_once()
        };
        let shared = PROCESSORS.div_ceil(2);
        assert_eq!([1, 2, 1].map(&mut at_once_after), [*PROCESSORS, shared, shared]);
        assert!((2..turns).all(|_| at_once_after(1) == shared), "another may ask again");
        assert_eq!(at_once_after(1), *PROCESSORS, "it asks no more");
        assert_eq!(begin_all(&mut order).len(), *PROCESSORS);
        order.changed = Some(order.begun);
        assert!(begin_all(&mut order).is_empty(), "more than half work already");
    }
}
