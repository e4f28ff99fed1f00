//! `/stats`: the figures of `/stats.json` for people, in the app's colours, without scripts.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};

use super::{Rooms, headers};

pub(super) async fn page(State(rooms): State<Rooms>) -> impl IntoResponse {
    let (tracker, dht) = (rooms.tracker.stats(), rooms.dht.info());
    let figures = [
        ("Swarms", tracker.swarms, "torrents that somebody announces"),
        ("Web peers", tracker.web_peers, "pages, over WebSocket"),
        ("Native peers", tracker.native_peers, "programs, over HTTP and UDP"),
        ("Records", rooms.records.count(), "signed pointers kept here"),
        ("DHT nodes", dht.good_nodes, if dht.ready { "the network is joined" } else { "the network is being joined" }),
    ];
    let rows: String = figures.iter().map(|(name, figure, about)| row(name, *figure, about)).collect();
    let headers = [(CONTENT_SECURITY_POLICY, headers::CONTENT_SECURITY_POLICY)];
    (headers, [(CACHE_CONTROL, "no-cache")], Html(PAGE.replace("ROWS", &rows)))
}

pub(super) async fn style() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "no-cache")], STYLE)
}

/// Every part is ours or a number: nothing here needs escaping.
fn row(name: &str, figure: usize, about: &str) -> String {
    format!("<tr><th scope=row>{name}<td>{}<td>{about}", grouped(figure))
}

/// Digits in threes, set apart by a space that does not break (ISO 80000-1, 7.3.1).
fn grouped(figure: usize) -> String {
    let digits = figure.to_string();
    let mut out = String::new();
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

const PAGE: &str = concat!(
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
    "<meta http-equiv=refresh content=30><title>Swarmgate: figures</title><link rel=stylesheet href=/stats.css>",
    "<main><h1>What is going on here</h1><table>ROWS</table>",
    "<p>Now, on this server; the page renews itself every half minute. The same for programs: ",
    "<a href=/stats.json>stats.json</a>. <a href=/>Back to the reader</a>.",
    "<p class=version>Swarmgate ",
    env!("CARGO_PKG_VERSION"),
    "</main></html>\n"
);

/// The colours and type of `web-demo/src/style/base.css`.
const STYLE: &str = "\
:root { color-scheme: light dark; }
html {
  font: 100%/1.6 system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Helvetica Neue', Arial, sans-serif;
  color: light-dark(#1f2328, #e4e2dc);
  background: light-dark(#faf9f6, #16181b);
}
main { max-width: 42rem; margin: 3rem auto; padding: 0 clamp(1rem, 4vw, 2rem); }
table { width: 100%; border-collapse: collapse; }
th, td { padding: 0.5rem 0.75rem 0.5rem 0; text-align: left; border-bottom: 1px solid light-dark(#e2ded5, #33383f); }
td:nth-child(2) { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:nth-child(3), .version { color: light-dark(#5c5f63, #a3a8ae); }
a { color: light-dark(#0e6b5e, #6cc9b4); }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_grouped() {
        for (figure, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(figure).replace('\u{202f}', " "), text);
        }
    }
}
