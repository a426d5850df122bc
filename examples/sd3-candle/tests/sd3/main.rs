//! Stable Diffusion 3.5 whole beside diffusers, and reduced beside a reference in float64.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../../support/cases.rs"]
mod cases;
mod faithful;
mod fixture;
mod reduced;
