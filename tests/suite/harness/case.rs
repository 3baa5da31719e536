//! A test, what it needs, and how it is listed and run.
//!
//! A test is written as
//!
//! ```ignore
//! /// What it is about.
//! #[apply(test)]
//! #[needs(QemuImg, Root)]
//! #[case::small(4)]
//! #[needs(Fuse)]
//! #[case::large(400)]
//! async fn a1_existing_target_is_kept(scratch: Scratch, #[case] size: i64) { /* … */ }
//! ```
//!
//! with the cases, values and fixtures of rstest. What `needs` names right below `apply` the whole
//! test needs, what it names above a further case that case needs as well, and what a file's
//! `const NEEDS: &[Need]` names all tests of the file need. Where nothing is needed, nothing is
//! written. In this binary a bare `#[test]` would be compiled out; `unit::house` fails where one
//! stands.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed};
use linkme::distributed_slice;

use super::requirements::{self, Need};

/// By this variable nextest tells a test how it runs.
pub(crate) const BY_NEXTEST: &str = "NEXTEST_EXECUTION_MODE";

/// A registered test.
pub(crate) struct Case {
    pub(crate) path: &'static str,
    /// The file and the line where it is declared.
    pub(crate) place: &'static str,
    /// Those of all tests of its file, and its own.
    pub(crate) needs: [&'static [Need]; 2],
    pub(crate) run: fn(),
}

#[distributed_slice]
pub(crate) static CASES: [Case];

impl Case {
    /// The path without the name of this binary.
    pub(crate) fn name(&self) -> &'static str {
        self.path.split_once("::").map_or(self.path, |(_, name)| name)
    }

    pub(crate) fn needs(&self) -> Vec<Need> {
        self.needs.concat()
    }

    fn trial(&self) -> Trial {
        Trial::new(self.name().to_owned(), self.needs(), false, self.run)
    }
}

/// A test to list or run; those that are made from files while listing are nothing else.
pub(crate) struct Trial {
    name: String,
    needs: Vec<Need>,
    ignored: bool,
    run: Box<dyn FnOnce() + Send>,
}

impl Trial {
    pub(crate) fn new(
        name: String,
        needs: Vec<Need>,
        ignored: bool,
        run: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self { name, needs, ignored, run: Box::new(run) }
    }

    fn into_mimic(mut self, looks: bool) -> libtest_mimic::Trial {
        if !looks {
            self.needs.clear();
        }
        let ignored = self.ignored || requirements::skips(&self.needs);
        let run = move || checked_run(&self.needs, self.run);
        libtest_mimic::Trial::test(self.name, run).with_ignored_flag(ignored)
    }
}

/// Forced to run without what it needs, a test fails with the reason.
fn checked_run(needs: &[Need], run: impl FnOnce()) -> Result<(), Failed> {
    let unmet: Vec<String> = requirements::unmet(needs).map(|u| u.to_string()).collect();
    if !unmet.is_empty() {
        return Err(Failed::from(unmet.join("\n")));
    }
    run();
    Ok(())
}

/// Whether needs have to be looked at. They needn't where all tests are listed, ignored or not, and
/// where nextest, which has listed those that are ignored, goes on to run one of the others. One that
/// must not be skipped looks all the same, so that it tells what is missing.
fn looks(arguments: &Arguments) -> bool {
    let only_ignored = arguments.ignored || arguments.include_ignored;
    let is_listed = std::env::var_os(BY_NEXTEST).is_some_and(|how| how == "process-per-test");
    let must_run = requirements::required().is_ok_and(|required| !required.is_empty());
    let is_one = is_listed && !must_run && alone(arguments).is_some();
    only_ignored || !(arguments.list || is_one)
}

/// The tests that `case!` registered.
pub(crate) fn registered() -> impl Iterator<Item = Trial> {
    CASES.iter().map(Case::trial)
}

/// The test that is asked for by its whole name, if it is but one.
pub(crate) fn only() -> Option<String> {
    alone(&Arguments::from_args()).map(str::to_owned)
}

/// Whether a test is registered by this name.
pub(crate) fn is_registered(name: &str) -> bool {
    CASES.iter().any(|case| case.name() == name)
}

/// The only test that is asked for, by its whole name.
fn alone(arguments: &Arguments) -> Option<&str> {
    arguments.filter.as_deref().filter(|_| arguments.exact)
}

/// Lists or runs tests.
pub(crate) fn main(mut trials: Vec<Trial>) -> ExitCode {
    let arguments = Arguments::from_args();
    if let Err(error) = requirements::check_required_names() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    // A nextest child runs one test: what only others need isn't probed.
    trials.retain(|trial| alone(&arguments).is_none_or(|name| name == trial.name));
    trials.sort_by(|one, other| one.name.cmp(&other.name));
    let looks = looks(&arguments);
    let trials = trials.into_iter().map(|trial| trial.into_mimic(looks)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Declares a test.
macro_rules! test {
    (@[$($need:ident),*] $(#[$($attribute:tt)+])* $keyword:ident $($rest:tt)+) => {
        #[rstest::rstest]
        $(#[$($attribute)+])*
        // Above a case, rstest would take these for that case's own.
        #[$crate::harness::case::attribute::test($crate::harness::case::case)]
        #[needs($($need),*)]
        $keyword $($rest)+
    };
    ($(#[doc = $doc:literal])* #[needs($($need:ident),+ $(,)?)] $($rest:tt)+) => {
        $crate::harness::case::test! { @[$($need),+] $(#[doc = $doc])* $($rest)+ }
    };
    ($($item:tt)+) => {
        $crate::harness::case::test! { @[] $($item)+ }
    };
}
pub(crate) use test;

/// Declares a test of each creator, which is its argument `#[case] creator: CreatorKind`.
macro_rules! each_creator {
    ($(#[doc = $doc:literal])* $(#[needs($($need:ident),+)])? $keyword:ident $($rest:tt)+) => {
        $crate::harness::case::test! {
            @[$($($need),+)?]
            $(#[doc = $doc])*
            #[case::native(::overlay_pool::creator::CreatorKind::Native)]
            #[needs(StorageDaemon)]
            #[case::storage_daemon(::overlay_pool::creator::CreatorKind::StorageDaemon)]
            #[needs(QemuImg)]
            #[case::qemu_img(::overlay_pool::creator::CreatorKind::QemuImg)]
            $keyword $($rest)+
        }
    };
}
pub(crate) use each_creator;

/// To rstest, an attribute of this name is the one that makes a function a test.
pub(crate) mod attribute {
    pub(crate) use macro_rules_attribute::apply as test;
}

/// Registers a function that rstest made. Asynchronous ones get a runtime of two threads.
macro_rules! case {
    (@[$($need:ident)*] [$($kept:tt)*] #[needs($($more:ident),*)] $($rest:tt)+) => {
        $crate::harness::case::case! { @[$($need)* $($more)*] [$($kept)*] $($rest)+ }
    };
    (@[$($need:ident)*] [$($kept:tt)*] #[$($attribute:tt)+] $($rest:tt)+) => {
        $crate::harness::case::case! { @[$($need)*] [$($kept)* #[$($attribute)+]] $($rest)+ }
    };
    (@$needs:tt $kept:tt async fn $name:ident() $(-> $out:ty)? $body:block) => {
        $crate::harness::case::case! {
            @$needs $kept fn $name() $(-> $out)? {
                $crate::harness::case::block_on(async $body)
            }
        }
    };
    (@[$($need:ident)*] [$($kept:tt)*] fn $name:ident() $(-> $out:ty)? $body:block) => {
        $($kept)*
        fn $name() {
            #[expect(unsafe_code, reason = "linkme has the linker gather the tests")]
            #[linkme::distributed_slice($crate::harness::case::CASES)]
            static CASE: $crate::harness::case::Case = $crate::harness::case::Case {
                path: concat!(module_path!(), "::", stringify!($name)),
                place: concat!(file!(), ":", line!()),
                needs: [NEEDS, &[$($crate::harness::requirements::Need::$need),*]],
                run: $name,
            };
            let run = || $(-> $out)? $body;
            $crate::harness::case::Outcome::check(run());
        }
    };
    ($($item:tt)+) => {
        $crate::harness::case::case! { @[] [] $($item)+ }
    };
}
pub(crate) use case;

pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(test)
}

/// What a test function may return.
pub(crate) trait Outcome {
    fn check(self);
}

impl Outcome for () {
    fn check(self) {}
}

impl<E: std::fmt::Debug> Outcome for Result<(), E> {
    fn check(self) {
        self.expect("the test returned an error");
    }
}
