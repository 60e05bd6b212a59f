//! What the tests of the suites share.

use std::fmt::Debug;
use std::future::Future;

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
