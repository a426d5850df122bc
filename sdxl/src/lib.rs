//! sdxl.

pub mod rng;
