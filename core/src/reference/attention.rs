//! [`AttentionOps`] of the reference backend. It uses every generic body.

use super::NdTensor;
use crate::AttentionOps;

impl AttentionOps for NdTensor {}
