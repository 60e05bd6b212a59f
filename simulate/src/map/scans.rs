//! Scans, page by page.

use kvquorum_core::{Bytes, Key, KeyRange, Scan, ScanError};

use super::Operation;

/// A page of a scan that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFailed {
    TooFewAnswers,
    NotRepaired,
}

/// What a page, or a part of one, holds; `None` at the end.
type NextPage = Option<Result<Vec<(Key, Bytes)>, PageFailed>>;

/// A scan under way.
pub trait Paging: Send {
    fn next(&mut self) -> Operation<'_, NextPage>;
    /// What of the range is left.
    fn rest(&self) -> Option<KeyRange>;
}

pub(super) fn paging(scan: Scan, by_entry: bool) -> Box<dyn Paging> {
    Box::new(Pages { scan, by_entry })
}

struct Pages {
    scan: Scan,
    by_entry: bool,
}

impl Paging for Pages {
    fn next(&mut self) -> Operation<'_, NextPage> {
        Box::pin(async move {
            let page = if self.by_entry {
                let entry = self.scan.next().await?;
                entry.map(|entry| vec![entry])
            } else {
                self.scan.next_page().await?
            };
            Some(page.map_err(|error| match error {
                ScanError::NotRepaired { .. } => PageFailed::NotRepaired,
                _ => PageFailed::TooFewAnswers,
            }))
        })
    }

    fn rest(&self) -> Option<KeyRange> {
        self.scan.rest()
    }
}
