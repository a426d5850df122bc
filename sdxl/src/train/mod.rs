//! A small SD-XL trained from nothing, through the same models that sample, on libtorch's gradients.

pub mod scenes;
