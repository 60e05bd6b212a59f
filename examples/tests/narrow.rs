//! Texts and tables on a narrow terminal.

#![cfg(unix)]

mod support;

use support::{example, free_base_port, says, three_nodes};

fn widest(text: &str) -> usize {
    let widths = text.lines().map(|line| line.chars().count());
    widths.max().unwrap_or(0)
}

/// Catches tables that the terminal breaks in the middle of words.
#[test]
fn the_experiment_fits_fifty_columns() {
    let story = loop {
        let base = free_base_port().to_string();
        let mut command = example("three-node");
        let command = command.args(["--memory", "--base-port", &base]);
        let output = command.env("COLUMNS", "50").output().unwrap();
        if !String::from_utf8_lossy(&output.stderr).contains("is in use") {
            break says(output, 0).0;
        }
    };
    assert!(widest(&story) <= 50, "{story}");
    assert!(
        story.contains("\n     node 1\n       put: acked\n       get: "),
        "{story}"
    );
}

#[test]
fn the_help_fits_fifty_columns() {
    for arguments in [&["--help"][..], &["put", "-h"], &["node", "--help"]] {
        let mut command = example("three-node");
        let command = command.args(arguments).env("COLUMNS", "50");
        let (help, _) = says(command.output().unwrap(), 0);
        assert!(widest(&help) <= 50, "{help}");
    }
}

/// Catches long lines of what a client says to a terminal.
#[test]
fn a_failure_fits_fifty_columns() {
    let mut nodes = three_nodes();
    nodes[2].kill();
    let third = nodes[2].address();
    let three = ["put", "tea", "2", "--write-quorum", "3"];
    let said = support::on_a_terminal(50, &nodes, &three);
    assert!(widest(&said) <= 50, "{said}");
    let expected = format!(
        "  {third}\n    failed: the replica was not reached:\n    connecting failed: Connection refused"
    );
    assert!(said.contains(&expected), "{said}");
}
