//! The short examples run, and say what is true.

#![cfg(unix)]

mod support;

use support::example;

fn says(name: &str) -> String {
    let output = example(name).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Catches an example that nobody finds.
#[test]
fn readme_lists_all_examples() {
    let readme = include_str!("../README.md");
    let manifest = include_str!("../Cargo.toml");
    let examples = manifest.split("[[example]]").skip(1);
    let names = examples.map(|example| example.split('"').nth(1).unwrap());
    let mut place = 0;
    for name in names {
        let row = readme.find(&format!("\n| [`{name}`]("));
        let row = row.unwrap_or_else(|| panic!("{name} is not listed"));
        assert!(row > place, "{name} is in another place");
        place = row;
    }
}

#[test]
fn in_memory() {
    assert_eq!(
        says("in-memory"),
        "3 of 3 replicas hold it\ncups of tea: Some(2)\nonce deleted: None\n"
    );
}

#[test]
fn failed_writes() {
    let said = says("failed-writes");
    let lines: Vec<&str> = said.lines().collect();
    let is_failure = |line: &&str| line.ends_with(": the replica was not reached");
    let verdicts: Vec<&str> = lines.iter().copied().filter(|l| !is_failure(l)).collect();
    assert_eq!(
        verdicts,
        [
            "3 of 3 replicas run: stored, acked by 3",
            "2 of 3 replicas run: stored, acked by 2",
            "1 of 3 replicas run: not known to be stored, acked by 1",
            "0 of 3 replicas run: not stored, and it never will be",
        ]
    );
    assert_eq!(lines.iter().filter(|l| is_failure(l)).count(), 2 + 3);
}

#[test]
fn delete_by_prefix() {
    assert_eq!(
        says("delete-by-prefix"),
        "deleted: 3\nleft: cart\nleft: carton\nleft: user/1\n"
    );
}

#[test]
fn lease() {
    assert_eq!(
        says("lease"),
        "alice prints: hello\n\
         bob prints: good morning\n\
         alice prints: refused, somebody else has the lease\n\
         alice gives it back: false\n\
         bob gives it back: true\n"
    );
}

#[test]
fn measured() {
    let said = says("measured");
    assert_eq!(said.lines().count(), 3, "{said}");
    for line in said.lines().take(2) {
        assert!(line.contains(" 0 failed"), "{said}");
    }
    // Reads ask two of three, and go on to the next where one fails.
    assert!(
        !said.lines().last().unwrap().contains(" 0 failed"),
        "{said}"
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
