//! Text and tables that fit the terminal.

use std::env;
use std::io::{self, Write};

use terminal_size::terminal_size;
use textwrap::{Options, WordSplitter, fill};

/// The width of the terminal: what `COLUMNS` says, or else what the terminal
/// says. `None` where there is no terminal.
pub(crate) fn columns() -> Option<usize> {
    let named = env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    named
        .filter(|columns| *columns > 0)
        .or_else(|| terminal_size().map(|(width, _)| width.0.into()))
}

/// Says something on stderr. There may be nobody left to read it, which makes
/// nothing fail.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Breaks lines at spaces. What begins the first line and the other lines is
/// part of the width.
pub(crate) fn wrap(first: &str, others: &str, text: &str, width: usize) -> String {
    let options = Options::new(width)
        .initial_indent(first)
        .subsequent_indent(others)
        // A hyphen is mostly part of an option's name here.
        .word_splitter(WordSplitter::NoHyphenation);
    fill(text, options)
}

/// A table with a row for each replica, and a line for each row. Where a line
/// does not fit the terminal, each cell has a line of its own.
pub(crate) fn table(
    indent: &str,
    labels: [&str; 3],
    columns: &[(&str, [String; 3])],
) -> Vec<String> {
    let limit = self::columns().unwrap_or(usize::MAX);
    let lines = side_by_side(indent, labels, columns);
    if lines.iter().all(|line| line.chars().count() <= limit) {
        lines
    } else {
        one_below_another(indent, labels, columns, limit)
    }
}

fn side_by_side(indent: &str, labels: [&str; 3], columns: &[(&str, [String; 3])]) -> Vec<String> {
    let [a, b, c] = labels.map(|label| format!("{indent}{label}"));
    let mut lines = [String::new(), a, b, c];
    for (heading, [a, b, c]) in columns {
        // All lines become as wide as the widest, so that columns line up.
        let width = lines.iter().map(|line| line.chars().count()).max();
        let width = width.unwrap_or(0).saturating_add(2);
        for (line, cell) in lines.iter_mut().zip([*heading, a, b, c]) {
            *line = format!("{line:width$}{cell}");
        }
    }
    let lines = lines.map(|line| line.trim_end().to_owned());
    // Without headings there is no first line.
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}

fn one_below_another(
    indent: &str,
    labels: [&str; 3],
    columns: &[(&str, [String; 3])],
    limit: usize,
) -> Vec<String> {
    let mut lines = Vec::new();
    let deeper = format!("{indent}  ");
    for (row, label) in labels.into_iter().enumerate() {
        lines.push(format!("{indent}{label}"));
        for (heading, cells) in columns {
            let line = match cells.get(row).map_or("", String::as_str) {
                "" => continue,
                cell if heading.is_empty() => cell.to_owned(),
                cell => format!("{heading}: {cell}"),
            };
            lines.push(wrap(&deeper, &deeper, &line, limit));
        }
    }
    lines
}
