//! The model on every backend: against diffusers, and with token reduction.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod golden;
mod plain;
mod reduced;

/// One `#[test]` for every check on a backend.
macro_rules! checks_on {
    ($name:ident, $backend:ty, $device:expr; $($module:ident :: $check:ident,)+) => {
        mod $name {
            $(#[test]
            fn $check() {
                crate::$module::$check::<$backend>(&$device);
            })+
        }
    };
    ($name:ident, $backend:ty, $device:expr) => {
        checks_on! { $name, $backend, $device;
            plain::rotary_positions_are_diffusers,
            plain::the_whole_model_is_diffusers,
            reduced::at_ratio_zero_nothing_changes,
            reduced::at_edm_is_the_dense_reference,
            reduced::tome_is_the_dense_reference,
            reduced::positions_that_are_not_gathered_are_noticed,
            reduced::a_dense_mixture_is_refused,
        }
    };
}

checks_on!(reference, atedm_core::reference::Reference32, atedm_core::reference::NdDevice);
checks_on!(candle, atedm_candle::Candle, atedm_candle::Device::Cpu);
#[cfg(feature = "tch")]
checks_on!(torch, atedm_tch::Torch, atedm_tch::Device::Cpu);
