//! Plugins of an outside crate, for whichever backend the user picks at run time.

use atedm_core::plugin::Registry;
use atedm_core::{AttentionOps, Result};

/// Adds methods, scorers, selectors, recoveries and schedules to the registry, so that `--prune` and `--prune-opt` can
/// name them. Called once for the backend in use.
///
/// ```no_run
/// use atedm_core::{AttentionOps, Result, plugin::Registry};
///
/// struct Mine;
///
/// impl atedm::Extension for Mine {
///     fn register<T: AttentionOps>(&self, registry: &mut Registry<T>) -> Result<()> {
///         registry.register_method("do-nothing", |_, _, _| Ok(Box::new(atedm_core::plugin::Unpruned)))
///     }
/// }
///
/// fn main() -> std::process::ExitCode {
///     atedm::main_with(Mine)
/// }
/// ```
pub trait Extension {
    /// Registers everything under its name.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] when a name is taken.
    fn register<T: AttentionOps>(&self, registry: &mut Registry<T>) -> Result<()>;
}

/// Nothing but what comes with the program.
impl Extension for () {
    fn register<T: AttentionOps>(&self, _registry: &mut Registry<T>) -> Result<()> {
        Ok(())
    }
}

/// The built-in registry with an extension's names added.
pub(crate) fn registry<T: AttentionOps>(extension: &impl Extension) -> Result<Registry<T>> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry)?;
    extension.register(&mut registry)?;
    Ok(registry)
}
