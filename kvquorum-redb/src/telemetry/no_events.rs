//! Without the feature `tracing`.

use std::time::Duration;

use crate::compaction::Compaction;
use crate::error::{OpenError, RedbStoreError};

pub(crate) fn not_opened(_: &OpenError) {}

pub(crate) fn write_failed(_: &redb::Error) {}

pub(crate) fn read_failed(_: &RedbStoreError) {}

pub(crate) fn reopened(_: Result<(), &RedbStoreError>) {}

pub(crate) fn compacted(_: &Compaction, _: Duration) {}
