//! Whether each sentence of the contracts is tested.

use super::{Clause, codec, store, transport};

/// The bullets under `# Contract` in a file's doc comments, with their line breaks
/// and links taken out.
fn contract(source: &str) -> Vec<String> {
    let mut bullets: Vec<String> = Vec::new();
    let (mut in_contract, mut in_bullet) = (false, false);
    for line in source.lines() {
        let Some(doc) = line.trim().strip_prefix("///") else {
            (in_contract, in_bullet) = (false, false);
            continue;
        };
        let doc = doc.trim();
        if doc.starts_with('#') {
            in_contract = doc == "# Contract";
        }
        match doc.strip_prefix("- ") {
            _ if doc.is_empty() || doc.starts_with('#') => in_bullet = false,
            Some(start) if in_contract => {
                bullets.push(start.to_owned());
                in_bullet = true;
            }
            None if in_bullet => {
                let bullet = bullets.last_mut().unwrap();
                *bullet = format!("{bullet} {doc}");
            }
            _ => {}
        }
    }
    bullets.iter().map(|bullet| without_links(bullet)).collect()
}

fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let (label, after) = link.split_once(']').expect("a closed link");
        plain = format!("{plain}{before}{label}");
        rest = match after.strip_prefix('(') {
            Some(target) => target.split_once(')').expect("a closed link").1,
            None => after,
        };
    }
    plain + rest
}

fn assert_covered(contract: &[String], clauses: &[&Clause], unchecked: &[&str]) {
    let quoted: Vec<&str> = clauses.iter().map(|clause| clause.says).collect();
    let is_covered = |bullet: &str| quoted.contains(&bullet) || unchecked.contains(&bullet);
    let forgotten: Vec<_> = contract
        .iter()
        .filter(|bullet| !is_covered(bullet))
        .collect();
    assert!(forgotten.is_empty(), "no check quotes {forgotten:#?}");
    let is_there = |says: &&str| contract.iter().any(|bullet| bullet == says);
    let invented: Vec<_> = quoted
        .iter()
        .chain(unchecked)
        .filter(|says| !is_there(says))
        .collect();
    assert!(invented.is_empty(), "no contract says {invented:#?}");
}

/// Bugs: a sentence is added to a contract, or reworded, and not tested; a check
/// quotes what no contract says any more.
#[test]
fn every_sentence_of_the_contracts_is_quoted() {
    assert_covered(
        &contract(include_str!("../../../kvquorum-core/src/store.rs")),
        store::CLAUSES,
        store::UNCHECKED,
    );
    assert_covered(
        &contract(include_str!("../../../kvquorum-core/src/transport.rs")),
        transport::CLAUSES,
        transport::UNCHECKED,
    );
    assert_covered(
        &contract(include_str!("../../../kvquorum-core/src/map/codec.rs")),
        codec::CLAUSES,
        &[],
    );
}
