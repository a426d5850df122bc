//! What only all crates together can show: parity with diffusers, and benches. The conformance suites are a crate of
//! their own, `atedm-conformance`.
//!
//! # Structure
//! - [`golden`]: whole runs against files made by diffusers.

// This crate is tests: a failed `unwrap` is a failed check.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod golden;
mod object_safety;
