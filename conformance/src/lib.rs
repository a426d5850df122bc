#![doc = include_str!("../README.md")]
//!
//! # Structure
//! - [`backend`]: the suite for backends; [`conformance_suite!`] names its checks as tests.
//! - [`method`]: the suite for methods; [`method_suite!`] names its checks as tests.
//! - [`oracle`]: every operation again in naive loops over [`host::Array`].
//! - [`report`]: what a suite found, also as JSON, and known failures.
//! - [`runner`]: a program that prints reports.
//! - [`shapes`]: a backend without data that counts every multiply of a model.
//! - [`tolerance`]: how far results may lie apart.
//! - [`trace`]: the tokens that each sublayer runs on.

// This crate is tests: a failed `unwrap` is a failed check.
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
