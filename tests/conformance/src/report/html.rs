//! The report as one page, which loads nothing from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{CaseReport, FailureReport, Found, PromiseReport, Report, Word};
use crate::finding::Place;
use crate::id;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let title = format!("{}: contract {}", report.port_name(), report.contract);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (report.port_name()) }
                    p { (summary(report)) }
                }
                (filters(report))
                main { (sections(report)) }
                (about(report))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

fn summary(report: &Report) -> Markup {
    html! {
        @if report.is_whole() {
            "Keeps " strong { (report.kept()) " of " (report.promises.len()) }
            " promises of overlay-pool's " (report.contract_name()) ", by all "
            (report.cases.len()) " cases of suite " (report.suite) "."
        } @else {
            "Judged by " (report.cases.len()) " cases of suite " (report.suite)
            ", a part of those of overlay-pool's " (report.contract_name()) "."
        }
    }
}

/// Without a script they do nothing, and everything shows.
fn filters(report: &Report) -> Markup {
    let count = |word| report.promises.iter().filter(|promise| promise.verdict == word).count();
    html! {
        nav aria-label="Filters" {
            button type="button" data-show="all" aria-pressed="true" {
                "all " (report.promises.len())
            }
            @for word in Word::ALL {
                @let count = count(word);
                button type="button" class=(word.as_str()) data-show=(word.as_str())
                    aria-pressed="false" disabled[count == 0] {
                    (word.as_str()) " " (count)
                }
            }
            input type="search" placeholder="id, case or word" aria-label="Search";
        }
    }
}

fn sections(report: &Report) -> Markup {
    let mut sections: Vec<&str> = Vec::new();
    for promise in &report.promises {
        if !sections.contains(&promise.section) {
            sections.push(promise.section);
        }
    }
    html! {
        @for section in sections {
            section {
                h2 { (section) }
                @for promise in report.promises.iter().filter(|its| its.section == section) {
                    (row(promise, report))
                }
            }
        }
        p id="none" hidden { "Nothing is left of these filters." }
    }
}

fn row(promise: &PromiseReport, report: &Report) -> Markup {
    let its = |case: &&CaseReport| promise.cases.contains(&case.name);
    html! {
        details class=(promise.verdict.as_str()) id=(promise.id) {
            summary {
                span.id { (promise.id) }
                span.text { (with_code(&promise.text)) }
                span.word { (promise.verdict.as_str()) }
            }
            @if let Some(reason) = &promise.reason { p.note { (reason) } }
            @if promise.cases.len() < promise.of {
                p.note { (promise.cases.len()) " of " (promise.of) " cases were judged by." }
            }
            ul {
                @for case in report.cases.iter().filter(its) { li { (of_case(case)) } }
            }
        }
    }
}

/// What stands between backticks is code.
fn with_code(text: &str) -> Markup {
    html! {
        @for (number, part) in text.split('`').enumerate() {
            @if number % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn of_case(case: &CaseReport) -> Markup {
    html! {
        p {
            span class={ "word " (case.verdict.as_str()) } { (case.verdict.as_str()) } " "
            code { (case.name) } " " (case.about)
            @if case.promises.len() > 1 { " " small { "(" (id::told(&case.promises)) ")" } }
        }
        @if let Some(reason) = &case.reason { p.note { (reason) } }
        @if let Some(failure) = &case.failure { (of_failure(failure, case)) }
    }
}

fn of_failure(failure: &FailureReport, case: &CaseReport) -> Markup {
    html! {
        dl {
            @if failure.expected != case.about { dt { "expected" } dd { (failure.expected) } }
            @if let Some(Place { number, written }) = &failure.step {
                dt { "step " (number) } dd { code { (written) } }
            }
            dt { "seen" }
            dd {
                (failure.kind) ": "
                @if let Some(id) = failure.promise { strong { (id) } ": " }
                span.said { (failure.seen) }
            }
            @if let Some(folder) = &case.folder {
                dt { "folder" } dd { code { (folder.display()) } }
            }
        }
    }
}

/// On what machine, and how.
fn about(report: &Report) -> Markup {
    let host = &report.host;
    let found = |found: &Found| match found {
        Found::Found(what) => html! { (what) },
        Found::Missing(why) => html! { strong { "missing" } ": " (why) },
    };
    html! {
        footer {
            h2 { "How it was judged" }
            dl {
                dt { "shim" } dd { code { (report.port.command.join(" ")) } }
                @for (capability, why) in &report.port.lacks {
                    dt { "left out" } dd { (capability) ": " (why) }
                }
                dt { "machine" }
                dd {
                    (host.system) ", " (host.architecture) ", " (host.processors)
                    " processors, user " (host.uid)
                }
                dt { "isolation" } dd { (found(&host.isolation)) }
                @for (name, need) in &host.needs { dt { (name) } dd { (found(need)) } }
            }
        }
    }
}
