//! The plugins of a run.

use atedm_core::AttentionOps;
use atedm_core::plugin::Registry;
use atedm_sdxl::schedulers::SamplerRegistry;

/// The methods and samplers that a plan can name, on one backend.
pub struct Plugins<T: AttentionOps> {
    /// Methods.
    pub methods: Registry<T>,
    /// Samplers.
    pub samplers: SamplerRegistry<T>,
}
