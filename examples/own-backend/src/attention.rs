//! Attention and its graph: only the default bodies.

use atedm_core::AttentionOps;

use crate::Flat;

impl AttentionOps for Flat {}
