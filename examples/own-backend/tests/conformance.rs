//! The whole suite on a backend of one's own.

use atedm_core::DType;
use example_own_backend::{Host, Loops};

atedm_conformance::conformance_suite!(f32, Loops, Host, &[DType::F32]);
