//! AT-EDM on the reference backend, against plain loops and by its properties.
#![cfg(feature = "reference")]
// Helpers outside `#[test]` functions fail a test by unwrapping, too.
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
