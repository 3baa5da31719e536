//! A badge in SVG, for a port's README: it needs no service to draw it.

use maud::{PreEscaped, html};

use super::{Report, Word};

/// The picture.
pub(crate) fn badge(report: &Report) -> String {
    let label = format!("overlay-pool {}", report.contract_name());
    let message = format!("{} of {}", report.kept(), report.promises.len());
    let color = match report.promises.iter().map(|promise| promise.verdict).max() {
        Some(Word::Pass) => "#2a7d2f",
        Some(Word::Fail) => "#b3261e",
        _ => "#8a6100",
    };
    let (left, right) = (width(&label), width(&message));
    let all = left + right;
    let title = format!("{label}: {message}");
    let text = |at: usize, width: usize, words: &str| {
        html! {
            text x=(at + width / 2) y="14" textLength=(width - 12) { (words) }
        }
    };
    html! {
        (PreEscaped(format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="{all}" height="20" "#)))
        (PreEscaped(r#"role="img" aria-label=""#)) (title) (PreEscaped("\">"))
            title { (title) }
            rect width=(all) height="20" rx="3" fill="#444" {}
            path d=(format!("M{left} 0h{}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{}z", right - 3, right - 3))
                fill=(color) {}
            g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif"
                font-size="11" {
                (text(0, left, &label))
                (text(left, right, &message))
            }
        (PreEscaped("</svg>\n"))
    }
    .into_string()
}

/// About how wide a text is, with space beside it.
fn width(text: &str) -> usize {
    text.chars().count() * 65 / 10 + 14
}
