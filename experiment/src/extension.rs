//! Plugins of an outside crate, for any backend that the user chooses at run time.

use atedm_core::at_edm::Parts;
use atedm_core::plugin::Registry;
use atedm_core::{AttentionOps, Result, Tensor};
use atedm_sdxl::prompt::SyntaxRegistry;
use atedm_sdxl::schedulers::SamplerRegistry;

use crate::engine::Plugins;

/// Adds methods and schedules to the registry, scorers, selectors and recoveries to AT-EDM's parts, samplers, and
/// prompt syntaxes. `--prune`, `--prune-opt`, `--scheduler` and `--prompt-syntax` can then name them. It is called for the backend in use, and before that for
/// the plan.
///
/// ```
/// use atedm_core::plugin::{Registry, Unpruned, Whole};
/// use atedm_core::{AttentionOps, Result};
/// use atedm_experiment::Extension;
///
/// struct Mine;
///
/// impl Extension for Mine {
///     fn register<T: AttentionOps>(&self, registry: &mut Registry<T>) -> Result<()> {
///         registry.register_method(
///             "do-nothing",
///             |_options, _facts| Ok(Whole),
///             |_plan, _context| Ok(Box::new(Unpruned)),
///         )
///     }
/// }
/// ```
pub trait Extension {
    /// Registers scorers, selectors and recoveries of AT-EDM under their names.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] if a name is taken.
    fn parts<T: AttentionOps>(&self, _parts: &mut Parts<T>) -> Result<()> {
        Ok(())
    }

    /// Registers methods and schedules under their names.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] if a name is taken.
    fn register<T: AttentionOps>(&self, _registry: &mut Registry<T>) -> Result<()> {
        Ok(())
    }

    /// Registers samplers under their names.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] when a name is taken.
    fn samplers<T: Tensor>(&self, _samplers: &mut SamplerRegistry<T>) -> Result<()> {
        Ok(())
    }

    /// Registers prompt syntaxes under their names.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] when a name is taken.
    fn syntaxes(&self, _syntaxes: &mut SyntaxRegistry) -> Result<()> {
        Ok(())
    }
}

/// No extension: only the built-in methods.
impl Extension for () {}

/// The built-in registry with an extension's names added.
pub fn registry<T: AttentionOps>(extension: &impl Extension) -> Result<Registry<T>> {
    registry_with(extension, parts(extension)?)
}

/// The built-in samplers with an extension's samplers added.
pub fn samplers<T: Tensor>(extension: &impl Extension) -> Result<SamplerRegistry<T>> {
    let mut samplers = SamplerRegistry::with_builtins();
    extension.samplers(&mut samplers)?;
    Ok(samplers)
}

/// The built-in methods and samplers with those of an extension added.
pub fn plugins<T: AttentionOps>(extension: &impl Extension) -> Result<Plugins<T>> {
    Ok(Plugins { methods: registry(extension)?, samplers: samplers(extension)? })
}

/// AT-EDM's parts with an extension's parts added.
pub fn parts<T: AttentionOps>(extension: &impl Extension) -> Result<Parts<T>> {
    let mut parts = Parts::with_builtins();
    extension.parts(&mut parts)?;
    Ok(parts)
}

/// Like [`registry`], with AT-EDM made of these parts.
pub fn registry_with<T: AttentionOps>(extension: &impl Extension, parts: Parts<T>) -> Result<Registry<T>> {
    let mut registry = Registry::with_parts(parts);
    atedm_tomerge::register(&mut registry)?;
    atedm_reuse::register(&mut registry)?;
    extension.register(&mut registry)?;
    Ok(registry)
}
