//! What any backend of AT-EDM must satisfy, as ordinary generic functions, and the oracles it is held against.
//!
//! # Structure
//! - [`conformance`]: one suite of checks and of properties over random inputs; [`conformance_suite!`] names them for a
//!   backend, also for a stranger's.
//! - [`oracle`]: every operation again in naive loops over [`host::Array`].
//! - [`golden`]: whole runs against files made by diffusers.
//! - [`shapes`]: a backend without data that counts every multiply of a model.
//! - [`tolerance`]: the only place with epsilons.

// This crate is tests: a failed `unwrap` is a failed check.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod conformance;
pub mod golden;
pub mod host;
mod object_safety;
pub mod oracle;
pub mod shapes;
pub mod tolerance;
