//! The report as a page, in a real browser.

use std::process::Command;

use super::{ALL, HALF, LARGER, cases, run, told};
use crate::harness::prelude::*;

/// The page as the browser has it after its script ran, on a phone in the dark.
#[apply(test)]
#[needs(Chromium)]
fn a_page_shows_and_filters_verdicts(scratch: Scratch) {
    let cases = cases(&scratch, &[("half", HALF), ("all", ALL), ("larger", LARGER)]);
    let mut command = run(&scratch, "lacking", &cases);
    command.args(["--html", "report.html"]);
    let _ = told(command);
    let page = std::fs::read_to_string(scratch.join("report.html")).expect("a page");
    let loaded = ["src=", "href=", "url(", "@import", "fetch("];
    assert!(loaded.iter().all(|loads| !page.contains(loads)), "it loads from elsewhere");
    let steps = "<script>document.querySelector('nav button.fail').click();\
                 document.title = [...document.querySelectorAll('main details')]\
                 .map(row => row.id + ':' + getComputedStyle(row).display).join(' ')\
                 + ' ' + (document.documentElement.scrollWidth <= innerWidth);</script>";
    std::fs::write(scratch.join("clicked.html"), page + steps).expect("a page");
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .args(["--window-size=400,800", "--blink-settings=preferredColorScheme=0"])
        .arg(format!("--user-data-dir={}", scratch.join("profile").display()))
        .arg(scratch.join("clicked.html"))
        .output()
        .expect("chromium runs");
    let dom = String::from_utf8_lossy(&output.stdout);
    let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    let (title, _) = title.expect("a title");
    assert_eq!(title, "S1.1:block S2.1:none A9.2:none true", "{dom}");
}
