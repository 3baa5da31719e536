//! The table of interpreters: what runs each language's code, and how.

use super::guest::Start;
use super::program::Program;

/// A language's entry: its names, its base images, and how its code is run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Interpreter {
    /// The language's name.
    pub(super) name: &'static str,
    /// What else it may be called.
    pub(super) aliases: &'static [&'static str],
    /// What its base images are named, with `*` for any characters.
    pub(super) images: &'static str,
    /// How much memory the guest has if the settings don't say, in MiB.
    pub(super) memory_mib: u32,
    pub(super) command: &'static [&'static str],
    pub(super) takes: Takes,
    pub(super) rehearsal: Rehearsal,
}

/// What a VM that waits runs once, so that a caller's first line of output finds the way taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Rehearsal {
    /// Nothing: what no program is would fail in some languages.
    Nothing,
    /// A program.
    Program(&'static str),
    /// For an interpreter that rehearses by itself before it waits, unless its argument is
    /// [`AT_ONCE`]: a command that starts sooner and takes the rest of the way, to the guest, to the end
    /// and back. It runs before the interpreter starts, which then starts once.
    Command(&'static [&'static str]),
}

/// Tells an interpreter that its code is under way: to rehearse would only delay it.
const AT_ONCE: &str = "at-once";

/// How an interpreter takes its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Takes {
    /// It starts without code, says so with one byte on its descriptor 3, and reads from there, to the
    /// end: how many arguments follow, and these, its name the first; how many variables, and
    /// these; each with a NUL at its end; then the code.
    Waiting {
        /// Variables beginning so are looked at when it starts.
        early: &'static [&'static str],
    },
    /// As after `#!`: the path of a file with the code follows the command, and the arguments
    /// follow that.
    File {
        /// The path in the guest.
        path: &'static str,
    },
}

pub(super) const PYTHON: Interpreter = Interpreter {
    name: "python",
    aliases: &["py"],
    images: "python-*-base-*.qcow2",
    memory_mib: 128,
    command: &["python3", "-c", include_str!("interpreters/python.py")],
    takes: Takes::Waiting { early: &["PYTHON"] },
    rehearsal: Rehearsal::Command(&["python3", "-I", "-S", "-c", "print('ready')"]),
};

pub(super) const NODE: Interpreter = Interpreter {
    name: "javascript",
    aliases: &["js", "node"],
    images: "node-*-base-*.qcow2",
    memory_mib: 256,
    command: &["node", "-e", include_str!("interpreters/node.js")],
    takes: Takes::Waiting { early: &["NODE_", "UV_", "OPENSSL_", "SSL_"] },
    rehearsal: Rehearsal::Command(&["/bin/sh", "-c", "echo ready"]),
};

pub(super) const SHELL: Interpreter = Interpreter {
    name: "raw",
    aliases: &["sh"],
    images: "raw-base-*.qcow2",
    memory_mib: 128,
    command: &["/bin/sh"],
    takes: Takes::File { path: "/run/code" },
    rehearsal: Rehearsal::Program("echo ready"),
};

/// What every program finds in its environment.
const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
];

/// What the loader and the C library look at before any interpreter does.
const EARLY: [&str; 5] = ["LD_", "LC_", "LANG", "TZ", "MALLOC_"];

/// A program as the guest is told of it.
#[derive(Debug)]
pub(super) struct Order {
    /// What to start; none for the interpreter that waits.
    pub(super) start: Option<Start>,
    /// What it finds in the file, or else on its descriptor 3.
    pub(super) code: Vec<u8>,
    pub(super) file: Option<&'static str>,
}

impl Interpreter {
    /// What a VM that waits runs once, if anything.
    pub(super) fn rehearsal(&self) -> Option<Order> {
        match self.rehearsal {
            Rehearsal::Nothing => None,
            Rehearsal::Program(code) => Some(self.order(&Program::new(code))),
            Rehearsal::Command(command) => {
                Some(Order { start: Some(start(command, &[], &[])), code: Vec::new(), file: None })
            }
        }
    }

    /// How it is started to wait for its rehearsal, if it does.
    pub(super) fn start_to_rehearse(&self) -> Option<Start> {
        match self.rehearsal {
            Rehearsal::Program(_) => self.start(),
            Rehearsal::Nothing | Rehearsal::Command(_) => None,
        }
    }

    /// How it is started to wait for code, if it does.
    pub(super) fn start(&self) -> Option<Start> {
        matches!(self.takes, Takes::Waiting { .. }).then(|| self.command(&[], &[]))
    }

    /// How it is started for code that is under way, if it waits at all.
    pub(super) fn start_at_once(&self) -> Option<Start> {
        matches!(self.takes, Takes::Waiting { .. }).then(|| self.at_once(&[]))
    }

    fn at_once(&self, environment: &[String]) -> Start {
        let rehearses = matches!(self.rehearsal, Rehearsal::Command(_));
        let arguments = rehearses.then(|| AT_ONCE.to_owned());
        self.command(arguments.as_slice(), environment)
    }

    /// What the guest is told, for it to run the program.
    pub(super) fn order(&self, program: &Program) -> Order {
        let Program { name, arguments, environment, code, .. } = program;
        let early = match self.takes {
            Takes::Waiting { early } => early,
            Takes::File { path } => {
                let arguments: Vec<_> =
                    [path.to_owned()].iter().chain(arguments).cloned().collect();
                let start = Some(self.command(&arguments, environment));
                return Order { start, code: code.clone(), file: Some(path) };
            }
        };
        let is_early =
            |variable: &String| EARLY.iter().chain(early).any(|early| variable.starts_with(early));
        let start = environment.iter().any(is_early).then(|| self.at_once(environment));
        let mut order = Vec::new();
        let names: Vec<&String> = std::iter::once(name).chain(arguments).collect();
        push(&mut order, &names);
        push(&mut order, &environment.iter().collect::<Vec<_>>());
        order.extend(code);
        Order { start, code: order, file: None }
    }

    fn command(&self, arguments: &[String], environment: &[String]) -> Start {
        start(self.command, arguments, environment)
    }
}

/// A command with more arguments, in the environment that every program has.
fn start(command: &[&str], arguments: &[String], environment: &[String]) -> Start {
    let is_set = |usual: &&str| {
        let name = usual.split_inclusive('=').next().unwrap_or(usual);
        environment.iter().any(|variable| variable.starts_with(name))
    };
    let usual = ENVIRONMENT.into_iter().filter(|usual| !is_set(usual)).map(str::to_owned);
    let command = command.iter().copied().map(str::to_owned);
    Start {
        arguments: command.chain(arguments.iter().cloned()).collect(),
        environment: usual.chain(environment.iter().cloned()).collect(),
    }
}

/// Appends how many fields follow, and the fields, each with a NUL at its end.
fn push(order: &mut Vec<u8>, fields: &[&String]) {
    order.extend(format!("{}\0", fields.len()).bytes());
    for field in fields {
        order.extend(field.as_bytes());
        order.push(0);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn what_waits_is_told_all_in_one() {
        let program = Program::new("print()").name("a.py").argument("x").variable("A", "b");
        let Order { start, code, file } = PYTHON.order(&program);
        assert_eq!(code, b"2\0a.py\0x\x001\0A=b\0print()");
        assert_eq!((start, file), (None, None));
    }

    /// Those of a file know no such argument.
    #[rstest]
    #[case(PYTHON, true)]
    #[case(NODE, true)]
    #[case(Interpreter { rehearsal: Rehearsal::Program(""), ..PYTHON }, false)]
    fn what_rehearses_by_itself_is_told_not_to_where_code_is_under_way(
        #[case] interpreter: Interpreter,
        #[case] told: bool,
    ) {
        let last = |start: Option<Start>| start.and_then(|mut start| start.arguments.pop());
        let is_told = |start| last(start).as_deref() == Some(AT_ONCE);
        let early = interpreter.order(&Program::new("").variable("LD_PRELOAD", "a.so")).start;
        assert_eq!([interpreter.start_at_once(), early].map(is_told), [told; 2]);
        assert!(!is_told(interpreter.start()));
    }

    #[rstest]
    fn what_does_not_wait_finds_its_code_in_a_file() {
        let program = Program::new("echo").name("a.sh").argument("x");
        let Order { start, code, file } = SHELL.order(&program);
        let arguments = start.map(|start| start.arguments).unwrap_or_default();
        assert_eq!(arguments, ["/bin/sh", "/run/code", "x"]);
        assert_eq!((&*code, file), (&b"echo"[..], Some("/run/code")));
    }

    #[rstest]
    #[case(PYTHON, "PYTHONHASHSEED", true)]
    #[case(PYTHON, "LD_PRELOAD", true)]
    #[case(PYTHON, "NODE_OPTIONS", false)]
    #[case(NODE, "NODE_OPTIONS", true)]
    #[case(SHELL, "ANY", true)]
    fn an_interpreter_that_looks_at_a_variable_is_started_with_it(
        #[case] interpreter: Interpreter,
        #[case] variable: &str,
        #[case] started: bool,
    ) {
        let program = Program::new("").variable(variable, "1");
        let order = interpreter.order(&program);
        assert_eq!(order.start.is_some(), started);
        let of = |start: Start| start.environment.contains(&format!("{variable}=1"));
        assert!(order.start.is_none_or(of));
    }
}
