//! Tests that need all crates together: parity with diffusers, and benches. The conformance suites are in their own
//! crate, `atedm-conformance`.
//!
//! # Structure
//! - [`golden`]: whole runs against files made by diffusers.

// This crate contains tests, so a failed `unwrap` is a failed check.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod golden;
mod object_safety;
pub mod prompts;
