//! The suite and the properties on the reference backend.

use atedm_core::DType;
use atedm_core::reference::{NdDevice, Reference32, Reference64};

atedm_conformance::conformance_suite!(f32, Reference32, NdDevice, &[DType::F32]);
atedm_conformance::conformance_suite!(f64, Reference64, NdDevice, &[DType::F64]);
