//! AT-EDM on the reference backend, against the conformance suite's oracle and by its properties.
#![cfg(feature = "reference")]
// Helpers outside `#[test]` functions fail a test by unwrapping, too.
#![allow(clippy::unwrap_used)]

mod bicubic;
mod config;
mod controls;
mod fewer_votes;
mod kept_sets;
mod method;
mod page_rank;
mod recovery;
mod registry;
mod schedule;
mod selection;
mod support;
mod toy;
mod watched;
