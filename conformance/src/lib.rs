#![doc = include_str!("../README.md")]
//!
//! # Structure
//! - [`backend`]: the suite for backends; [`conformance_suite!`] makes its checks tests.
//! - [`method`]: the suite for methods; [`method_suite!`] makes its checks tests.
//! - [`oracle`]: every operation again, in naive loops over [`host::Array`].
//! - [`report`]: the results of a suite, also as JSON, and known failures.
//! - [`runner`]: a program that prints reports.
//! - [`shapes`]: a backend without data that counts every multiply of a model.
//! - [`tolerance`]: the allowed differences between results.
//! - [`trace`]: the tokens that each sublayer runs on.

// This crate is made of tests: a failed `unwrap` is a failed check.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod backend;
pub mod host;
pub mod method;
pub mod oracle;
mod random;
pub mod report;
pub mod runner;
pub mod shapes;
pub mod tolerance;
pub mod trace;
