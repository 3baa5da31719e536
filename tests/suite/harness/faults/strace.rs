//! Faults in single system calls, injected by strace into the real program.
//!
//! strace is attached to the program when the test says so: calls before that (the loader's, the
//! runtime's) aren't counted and don't fail. It counts by thread, so the program gets one thread
//! that works.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::shim::until;
use crate::harness::wait::eventually;

/// What happens at a system call.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It isn't done, and fails with this error. At the n-th call of each thread, and no other.
    Error { errno: &'static str, at: Operation },
    /// The process is killed before it is done.
    Kill { at: Operation },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error { errno, at } => write!(f, "{errno} instead of {at}"),
            Self::Kill { at } => write!(f, "killed before {at}"),
        }
    }
}

impl Fault {
    fn arguments(&self) -> [String; 2] {
        let once = |at: &Operation, what: String| {
            (at.call.clone(), format!("inject={}:{what}:when={}", at.call, at.number))
        };
        let (calls, inject) = match self {
            Self::Error { errno, at } => once(at, format!("error={errno}")),
            Self::Kill { at } => once(at, "signal=KILL".to_owned()),
        };
        [format!("trace={calls}"), inject]
    }
}

/// A system call that was seen: the `number`-th `call` of its thread.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) call: String,
    pub(crate) number: usize,
    /// As strace shows it.
    pub(crate) shown: String,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}: {}", self.call, self.number, self.shown)
    }
}

/// strace, waiting to be let loose on a program.
pub(crate) struct Strace {
    gate: PathBuf,
    log: PathBuf,
}

impl Strace {
    /// Makes what strace needs in `folder`, and the prefix of the program's command line. Without
    /// a fault it only looks on.
    pub(crate) fn new(folder: &Path, fault: Option<&Fault>) -> (Self, Vec<String>) {
        let strace = Self { gate: folder.join("gate"), log: folder.join("strace.log") };
        mknodat(CWD, &strace.gate, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        let [trace, inject] = match fault {
            Some(fault) => fault.arguments(),
            None => ["trace=%file,%desc,%process,%network".to_owned(), String::new()],
        };
        // The tracer is the parent of what it traces, so that no special right is needed. Lines of
        // a log would be operations too.
        let script = r#"
            gate=$0 log=$1 trace=$2 inject=$3
            shift 3
            unset OVERLAY_POOL_LOG
            exec 3<&0
            TOKIO_WORKER_THREADS=1 "$@" <&3 3<&- &
            exec 3<&- </dev/null
            read -r arguments <"$gate"
            [ -z "$inject" ] || arguments="-e $inject $arguments"
            exec strace -y -qq -o "$log" -e "$trace" $arguments >/dev/null
        "#;
        let words = ["sh", "-c", script].map(str::to_owned).into_iter();
        let paths = [&strace.gate, &strace.log].map(|path| path.to_string_lossy().into_owned());
        let prefix = words.chain(paths).chain([trace, inject]).collect();
        (strace, prefix)
    }

    /// Attaches it to the thread that works: from here on calls are counted.
    pub(crate) fn attach(&self, pid: Pid, patience: Duration) {
        let mut threads = Vec::new();
        let found = until(patience, || {
            threads = tasks(pid).filter(|task| works(pid, *task)).collect();
            threads.len() == 1
        });
        assert!(found, "no thread of {pid:?} is seen to wait for work: {threads:?}");
        std::fs::write(&self.gate, format!("-p {}\n", threads[0])).expect("the gate");
        let attached = until(patience, || is_traced(pid, threads[0]));
        assert!(attached, "strace never attached to {pid:?}; see the log");
    }

    /// The calls that were made, in their order. Calls of the harness's own making and
    /// those that can't fail on their own are left out.
    pub(crate) fn operations(&self, folder: &Path, wide: bool) -> Vec<Operation> {
        let log = std::fs::read_to_string(&self.log).expect("strace's log");
        let folder = folder.to_string_lossy();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut operations = Vec::new();
        for line in log.lines() {
            // A call is counted where it is entered; the other lines are its end, or a signal.
            let Some((call, _)) = line.split_once('(') else { continue };
            if !call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                continue;
            }
            let count = counts.entry(call).or_default();
            *count += 1;
            if is_operation(call, line, &folder, wide) {
                let shown = line.chars().take(200).collect();
                operations.push(Operation { call: call.to_owned(), number: *count, shown });
            }
        }
        operations
    }

    /// Whether the fault was made.
    pub(crate) fn injected(&self) -> bool {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.contains("(INJECTED)") || log.contains("(DELAYED)") || log.contains("killed by SIGKILL")
    }
}

/// What the pool does to files, and to get processes and what it talks to them through.
fn is_operation(call: &str, line: &str, folder: &str, wide: bool) -> bool {
    // A close that fails has closed; the injected one would not. Looking at a descriptor's flags
    // is a debug build's own check.
    if call == "close" || line.contains("F_GETFD") {
        return false;
    }
    let of_processes = ["socketpair", "pipe2", "clone", "clone3", "fork", "vfork"];
    line.contains(folder)
        || line.contains("\"/proc/self")
        || line.contains("\"/dev/null\"")
        || of_processes.contains(&call)
        || (wide && ["sendto", "recvfrom"].contains(&call))
}

/// The threads of a process.
fn tasks(pid: Pid) -> impl Iterator<Item = i32> {
    let folder = format!("/proc/{}/task", pid.as_raw_nonzero());
    let tasks = std::fs::read_dir(folder).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok())
}

fn read(pid: Pid, task: i32, file: &str) -> String {
    let path = format!("/proc/{}/task/{task}/{file}", pid.as_raw_nonzero());
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Whether this is the thread that the runtime works in: it waits for events. The others wait for
/// the end, or for requests, which are the harness's and not the pool's.
fn works(pid: Pid, task: i32) -> bool {
    let waits_in = read(pid, task, "wchan");
    waits_in.contains("ep_poll") || waits_in.contains("epoll_wait")
}

fn is_traced(pid: Pid, task: i32) -> bool {
    let status = read(pid, task, "status");
    status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
}

/// strace around a program, to be given options and the program's command. The program is our child,
/// and is told to end.
pub(crate) fn around(log: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-o"]).arg(log);
    command
}

/// The calls that a program made by then, of whose end strace writes a summary (`--summary-only`).
pub(crate) async fn summarized(log: &Path) -> BTreeSet<String> {
    let read = || std::fs::read_to_string(log).unwrap_or_default();
    eventually("strace tells", || read().trim_end().ends_with("total")).await;
    let table = read();
    let last = table.lines().filter_map(|line| line.split_whitespace().last());
    let is_call = |word: &&str| word.starts_with(|letter: char| letter.is_ascii_lowercase());
    last.filter(is_call)
        .filter(|word| !["syscall", "total"].contains(word))
        .map(str::to_owned)
        .collect()
}

/// How long strace may take to end.
const LET_GO: Duration = Duration::from_secs(5);

/// strace on every thread of a process that isn't its child, which takes root; until it is dropped.
pub(crate) struct Attached(Child);

impl Attached {
    /// Has something happen at each of these calls, or at some of them (`error=EIO:when=1`, counted
    /// by thread); what was done stands in `log`.
    pub(crate) fn to(pid: Pid, log: &Path, calls: &str, what: &str) -> Self {
        Self::to_each(pid, log, &[(calls, what)])
    }

    /// The same, of several calls.
    pub(crate) fn to_each(pid: Pid, log: &Path, faults: &[(&str, &str)]) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-qq"]);
        let calls: Vec<_> = faults.iter().map(|(calls, _)| *calls).collect();
        command.args(["-e", &format!("trace={}", calls.join(","))]);
        for (calls, what) in faults {
            command.args(["-e", &format!("inject={calls}:{what}")]);
        }
        command.arg("-o").arg(log).args(["-p", &pid.as_raw_nonzero().to_string()]);
        Self(command.stdin(Stdio::null()).spawn().expect("strace starts"))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It lets go of what it traces; of what is dying it may never.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        if !until(LET_GO, || self.0.try_wait().is_ok_and(|ended| ended.is_some())) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Whether strace is on every thread.
pub(crate) fn is_wholly_traced(pid: Pid) -> bool {
    tasks(pid).all(|task| is_traced(pid, task))
}

/// What strace says of itself, where it can be attached to what it is the parent of.
pub(crate) fn probe() -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-c", "strace -V | head -n 1; sleep 0.2 & exec strace -qq -o /dev/null -p $!"])
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}; install strace, and let it trace its children", said.trim()))
}
