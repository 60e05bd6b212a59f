//! What the tests of the suites share.

#![allow(dead_code, reason = "each test uses its own part of it")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::ops::Bound;
use std::sync::Mutex;

use kvquorum_core::{Action, Change, Key, Record, Response, ScanLimit, Store, StoreError};

/// A sound store.
#[derive(Default)]
pub(crate) struct OneLock(Mutex<BTreeMap<Key, Record>>);

impl Store for OneLock {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let mut map = self.0.lock().unwrap();
        let decision = change.decide(map.get(key));
        match decision.action {
            Action::Keep => None,
            Action::Replace(record) => map.insert(key.clone(), record),
            Action::Remove => map.remove(key),
        };
        Ok(decision.response)
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(limit.take(self.0.lock().unwrap().range::<Key, _>(range)))
    }
}

/// What a suite said, run as its own task: `None` where it passed.
pub(crate) async fn complaint(suite: impl Future<Output = ()> + Send + 'static) -> Option<String> {
    let panic = tokio::spawn(suite).await.err()?.into_panic();
    let message = panic.downcast_ref::<String>().cloned();
    Some(
        message
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap(),
    )
}

/// Requires that a fault was caught under one of these sentences.
pub(crate) fn assert_caught(fault: impl Debug, sentences: &[&str], complaint: Option<String>) {
    let complaint = complaint.unwrap_or_else(|| panic!("{fault:?} passed"));
    println!("{fault:?}: {complaint}\n");
    assert!(
        sentences
            .iter()
            .any(|sentence| complaint.contains(sentence)),
        "{fault:?} was caught under another sentence: {complaint}",
    );
}

/// Requires of each of these faults, one after the other, that a suite catches it
/// under one of its sentences. `complaint` is what the suite says of a fault.
pub(crate) async fn are_caught<'a, F, C>(
    faults: impl IntoIterator<Item = &'a (F, &'a [&'a str])>,
    complaint: impl Fn(F) -> C,
) where
    F: Copy + Debug + 'a,
    C: Future<Output = Option<String>>,
{
    for (fault, sentences) in faults {
        assert_caught(fault, sentences, complaint(*fault).await);
    }
}

/// As [`are_caught`], all at once.
pub(crate) async fn are_caught_at_once<'a, F, C>(
    faults: impl IntoIterator<Item = &'a (F, &'a [&'a str])>,
    complaint: impl Fn(F) -> C,
) where
    F: Copy + Debug + 'a,
    C: Future<Output = Option<String>> + Send + 'static,
{
    let all: Vec<_> = faults
        .into_iter()
        .map(|(fault, sentences)| (fault, sentences, tokio::spawn(complaint(*fault))))
        .collect();
    for (fault, sentences, complaint) in all {
        assert_caught(fault, sentences, complaint.await.unwrap());
    }
}
