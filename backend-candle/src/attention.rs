//! Level 3 on Candle.

use atedm_core::AttentionOps;

use crate::CandleTensor;

impl AttentionOps for CandleTensor {}
