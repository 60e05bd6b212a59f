//! How the experiment tells what it does.

use std::io::{self, Write};

const WIDTH: usize = 80;
const INDENT: &str = "   ";

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
        writeln!(self.out, "{:>2}. {title}\n", self.step)
    }

    /// A paragraph, wrapped.
    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        self.paragraph(INDENT, text)
    }

    /// What the library said, word for word.
    pub(crate) fn quote(&mut self, text: &str) -> io::Result<()> {
        self.paragraph("     > ", text)
    }

    /// A table with a row for each node.
    pub(crate) fn table<const COLUMNS: usize>(
        &mut self,
        columns: [(&str, [String; 3]); COLUMNS],
    ) -> io::Result<()> {
        let mut lines = [
            "".to_owned(),
            "node 1".to_owned(),
            "node 2".to_owned(),
            "node 3".to_owned(),
        ];
        for (heading, [a, b, c]) in columns {
            let cells = [heading.to_owned(), a, b, c];
            // All lines are as wide as the widest, so that columns line up.
            let width = lines.iter().map(|line| line.chars().count()).max();
            let width = width.unwrap_or(0).saturating_add(2);
            for (line, cell) in lines.iter_mut().zip(cells) {
                *line = format!("{line:width$}{cell}");
            }
        }
        for line in lines {
            writeln!(self.out, "{INDENT}  {}", line.trim_end())?;
        }
        writeln!(self.out)
    }

    fn paragraph(&mut self, indent: &str, text: &str) -> io::Result<()> {
        let mut line = indent.to_owned();
        let mut empty = true;
        for word in text.split_whitespace() {
            let width = line.chars().count().saturating_add(word.chars().count());
            if !empty && width >= WIDTH {
                writeln!(self.out, "{line}")?;
                line = indent.to_owned();
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        writeln!(self.out, "{line}\n")
    }
}
