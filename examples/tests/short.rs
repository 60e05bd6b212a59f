//! The short examples run, and say what is true.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod support;

use support::example;

fn says(name: &str) -> String {
    let output = example(name).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn in_memory() {
    assert_eq!(
        says("in-memory"),
        "3 of 3 replicas hold it\ncups of tea: Some(2)\nonce deleted: None\n"
    );
}

#[test]
fn own_replica() {
    let said = says("own-replica");
    assert_eq!(said.matches("acked\n").count(), 3, "{said}");
    assert!(said.ends_with("she reads: hello\n"), "{said}");
}

#[test]
fn own_transport() {
    assert_eq!(
        says("own-transport"),
        "a: acked\nb: acked\n\
         c: the replica was not reached\n\
         two of three are enough to read: hello\n"
    );
}
