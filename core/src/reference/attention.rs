//! [`AttentionOps`] of the reference backend: the generic bodies, every one.

use super::NdTensor;
use crate::AttentionOps;

impl AttentionOps for NdTensor {}
