#![cfg_attr(feature = "reference", doc = include_str!("../README.md"))]
//!
//! # Structure
//! - [`at_edm`]: the method, its parts and its configuration ([`at_edm::AtEdmConfig`]).
//! - [`backend`]: three small trait levels ([`Tensor`], [`NnOps`], [`AttentionOps`]) and their generic bodies.
//! - [`plugin`]: the seam between a model and a method ([`plugin::TokenReducer`], [`plugin::BlockPass`]).
//! - `reference` (feature `reference`): the plain backend on `ndarray`, in f32 and f64.
//! - [`weights`]: named tensors from any source.

// A library writes to no stream. It logs or returns what happens.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod at_edm;
pub mod backend;
mod dtype;
mod error;
pub mod plugin;
#[cfg(feature = "reference")]
pub mod reference;
pub mod weights;

pub use backend::{
    AttentionGraph, AttentionOps, Backend, CONTRACT_VERSION, DeviceOf, GraphRequest, Indices, NnOps,
    Partition, Tensor,
};
pub use dtype::DType;
pub use error::{Error, Result, one_line};
pub use weights::{WeightSource, Weights};
