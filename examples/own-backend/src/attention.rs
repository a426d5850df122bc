//! Attention and its graph: the generic bodies, every one.

use atedm_core::AttentionOps;

use crate::Flat;

impl AttentionOps for Flat {}
