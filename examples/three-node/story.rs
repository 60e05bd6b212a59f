//! How the experiment tells what it does.

use std::io::{self, Write};

use crate::layout::{self, columns, wrap};

const WIDTH: usize = 80;
const INDENT: &str = "   ";
const QUOTE: &str = "     > ";

/// Numbered steps on stdout. A blank line follows whatever is told.
pub(crate) struct Story {
    out: io::Stdout,
    step: u32,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self {
            out: io::stdout(),
            step: 0,
        }
    }

    /// The step that is being told; 0 before the first.
    pub(crate) fn step(&self) -> u32 {
        self.step
    }

    pub(crate) fn heading(&mut self, title: &str) -> io::Result<()> {
        self.step = self.step.saturating_add(1);
        self.paragraph(&format!("{:>2}. ", self.step), "    ", title)
    }

    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        self.paragraph(INDENT, INDENT, text)
    }

    /// What the library said, word for word.
    pub(crate) fn quote(&mut self, text: &str) -> io::Result<()> {
        self.paragraph(QUOTE, QUOTE, text)
    }

    /// A table with a row for each node.
    pub(crate) fn table<const COLUMNS: usize>(
        &mut self,
        columns: [(&str, [String; 3]); COLUMNS],
    ) -> io::Result<()> {
        for line in layout::table("     ", ["node 1", "node 2", "node 3"], &columns) {
            writeln!(self.out, "{line}")?;
        }
        writeln!(self.out)
    }

    fn paragraph(&mut self, first: &str, others: &str, text: &str) -> io::Result<()> {
        let width = columns().unwrap_or(WIDTH).min(WIDTH);
        writeln!(self.out, "{}\n", wrap(first, others, text, width))
    }
}
