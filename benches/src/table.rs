//! The one table: each benchmark leaves its rows in a file, and `overhead`
//! prints them together.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::turns::Spread;

/// What a figure should come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Goal {
    fn is_met_by(self, figure: f64) -> bool {
        match self {
            Self::AtMost(bound) => figure <= bound,
            Self::AtLeast(bound) => figure >= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {bound:.2}"),
            Self::AtLeast(bound) => write!(f, "≥ {bound:.2}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    what: String,
    figure: Spread,
    goal: Option<Goal>,
}

/// Rows of what was measured, what it came to, and what it should.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a row. `what` names the figure and what it is a ratio to.
    pub fn push(&mut self, what: impl Into<String>, figure: Spread, goal: Option<Goal>) {
        let what = what.into();
        self.rows.push(Row { what, figure, goal });
    }

    /// Adds another table's rows.
    pub fn append(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
    }

    /// The same with the rows that have goals first.
    pub fn goals_first(mut self) -> Self {
        self.rows.sort_by_key(|row| row.goal.is_none());
        self
    }

    /// Prints it, and leaves it for [`load`](Self::load).
    pub fn print_and_save(&self, directory: &str, benchmark: &str) {
        println!("\n{self}");
        let rows = serde_json::to_vec(self).unwrap();
        fs::write(path(directory, benchmark), rows).unwrap();
    }

    /// What a benchmark has left; nothing where it did not run.
    pub fn load(directory: &str, benchmark: &str) -> Self {
        let rows = fs::read(path(directory, benchmark));
        rows.map_or_else(
            |_| Self::default(),
            |rows| serde_json::from_slice(&rows).unwrap(),
        )
    }

    /// Forgets what a benchmark has left in an earlier run.
    pub fn clear(directory: &str, benchmark: &str) {
        let _ = fs::remove_file(path(directory, benchmark));
    }
}

fn path(directory: &str, benchmark: &str) -> PathBuf {
    Path::new(directory).join(format!("overhead-{benchmark}.json"))
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | median (middle half) | goal | met |")?;
        writeln!(f, "|---|---|---|---|")?;
        for Row { what, figure, goal } in &self.rows {
            let (goal, met) = match goal {
                Some(goal) if goal.is_met_by(figure.median) => (goal.to_string(), "yes"),
                Some(goal) => (goal.to_string(), "**no**"),
                None => (String::new(), ""),
            };
            writeln!(f, "| {what} | {figure} | {goal} | {met} |")?;
        }
        Ok(())
    }
}
