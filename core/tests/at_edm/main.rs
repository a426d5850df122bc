//! AT-EDM on the reference backend: comparisons with plain loops, and tests of its properties.
#![cfg(feature = "reference")]
// Helpers outside `#[test]` functions may unwrap, too: this fails the test.
#![allow(clippy::unwrap_used)]

mod config;
mod controls;
mod fewer_votes;
mod kept_sets;
mod method;
mod oracle;
mod page_rank;
mod recovery;
mod registry;
mod schedule;
mod support;
mod toy;
mod watched;
