//! The table of interpreters: how the guest runs each language's code.

use super::guest::Start;
use super::language::Language;
use super::program::Program;

/// How a language's code is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interpreter {
    command: &'static [&'static str],
    /// Whether the command starts without code, says so with one byte on its descriptor 3, and
    /// takes its program from there. One that doesn't wait finds its code alone there.
    waits: bool,
    /// Code that takes the way that a caller's first line of output will.
    pub(super) rehearsal: &'static str,
    /// Variables beginning so are looked at when it starts.
    early: &'static [&'static str],
}

const PYTHON: Interpreter = Interpreter {
    command: &["python3", "-c", include_str!("interpreters/python.py")],
    waits: true,
    rehearsal: "print('ready')",
    early: &["PYTHON"],
};

const NODE: Interpreter = Interpreter {
    command: &["node", "-e", include_str!("interpreters/node.js")],
    waits: true,
    rehearsal: "console.log('ready')",
    early: &["NODE_", "UV_", "OPENSSL_", "SSL_"],
};

const SHELL: Interpreter = Interpreter {
    command: &["/bin/sh", "/proc/self/fd/3"],
    waits: false,
    rehearsal: "echo ready",
    early: &[],
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
    /// What it finds on its descriptor 3.
    pub(super) code: Vec<u8>,
}

impl Interpreter {
    pub(super) fn of(language: Language) -> Self {
        match language {
            Language::Python => PYTHON,
            Language::Javascript => NODE,
            Language::Raw => SHELL,
        }
    }

    /// How it is started to wait for code, if it does.
    pub(super) fn start(&self) -> Option<Start> {
        self.waits.then(|| self.command(&[], &[]))
    }

    /// What the guest is told, for it to run the program.
    pub(super) fn order(&self, program: &Program) -> Order {
        let Program { name, arguments, environment, code, .. } = program;
        if !self.waits {
            let start = Some(self.command(arguments, environment));
            return Order { start, code: code.clone() };
        }
        let is_early = |variable: &String| {
            EARLY.iter().chain(self.early).any(|early| variable.starts_with(early))
        };
        let start = environment.iter().any(is_early).then(|| self.command(&[], environment));
        let mut order = Vec::new();
        let names: Vec<&String> = std::iter::once(name).chain(arguments).collect();
        push(&mut order, &names);
        push(&mut order, &environment.iter().collect::<Vec<_>>());
        order.extend(code);
        Order { start, code: order }
    }

    fn command(&self, arguments: &[String], environment: &[String]) -> Start {
        let command = self.command.iter().copied().map(str::to_owned);
        let is_set = |usual: &&str| {
            let name = usual.split_inclusive('=').next().unwrap_or(usual);
            environment.iter().any(|variable| variable.starts_with(name))
        };
        let usual = ENVIRONMENT.into_iter().filter(|usual| !is_set(usual)).map(str::to_owned);
        Start {
            arguments: command.chain(arguments.iter().cloned()).collect(),
            environment: usual.chain(environment.iter().cloned()).collect(),
        }
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
        let order = Interpreter::of(Language::Python).order(&program);
        assert_eq!(order.code, b"2\0a.py\0x\x001\0A=b\0print()");
        assert_eq!(order.start, None);
    }

    #[rstest]
    #[case(Language::Python, "PYTHONHASHSEED", true)]
    #[case(Language::Python, "LD_PRELOAD", true)]
    #[case(Language::Python, "NODE_OPTIONS", false)]
    #[case(Language::Javascript, "NODE_OPTIONS", true)]
    #[case(Language::Raw, "ANY", true)]
    fn an_interpreter_that_looks_at_a_variable_is_started_with_it(
        #[case] language: Language,
        #[case] variable: &str,
        #[case] started: bool,
    ) {
        let program = Program::new("").variable(variable, "1");
        let order = Interpreter::of(language).order(&program);
        assert_eq!(order.start.is_some(), started);
        let of = |start: Start| start.environment.contains(&format!("{variable}=1"));
        assert!(order.start.is_none_or(of));
    }
}
