//! Samplers by name, so that a user's own stands next to ours.

use std::fmt;
use std::sync::Arc;

use atedm_core::plugin::options::Named;
use atedm_core::{Error, Result, Tensor};

use super::builtin::{self, Builder, ENDINGS};
use super::config::SchedulerConfig;
use super::sampler::Sampler;

/// The samplers that a run can name, for one type of tensor.
///
/// A *name* is what a user types (`--scheduler heun`). A *class* is what a checkpoint's `scheduler_config.json` says as
/// `_class_name`; a user may type that too.
///
/// ```
/// use atedm_core::reference::NdTensor;
/// use atedm_sdxl::schedulers::{SamplerRegistry, SchedulerConfig};
///
/// let samplers = SamplerRegistry::<NdTensor>::with_builtins();
/// let heun = samplers.build(&SchedulerConfig::sdxl(), Some("heun"), 10)?;
/// assert_eq!(heun.timesteps().len(), 19); // two evaluations a step, and one in the last
/// # Ok::<(), atedm_core::Error>(())
/// ```
#[derive(Clone)]
pub struct SamplerRegistry<T: Tensor> {
    names: Named<Builder<T>>,
    classes: Named<Builder<T>>,
}

impl<T: Tensor> SamplerRegistry<T> {
    /// The samplers of this crate.
    pub fn with_builtins() -> Self {
        let (mut names, mut classes) = (Named::new("scheduler"), Named::new("scheduler"));
        names.extend(builtin::names());
        classes.extend(builtin::classes());
        Self { names, classes }
    }

    /// Adds a sampler under the name that users type. `build` gets the checkpoint's config and the number of steps.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register(
        &mut self,
        name: &str,
        build: impl Fn(&SchedulerConfig, usize) -> Result<Box<dyn Sampler<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.classes.check_new(name)?;
        self.names.insert(name, Arc::new(build))
    }

    /// Adds the sampler of checkpoints whose config names this class.
    ///
    /// # Errors
    /// [`Error::Config`] when the class is taken or empty.
    pub fn register_class(
        &mut self,
        class: &str,
        build: impl Fn(&SchedulerConfig, usize) -> Result<Box<dyn Sampler<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.names.check_new(class)?;
        self.classes.insert(class, Arc::new(build))
    }

    /// The names that users type, in order.
    pub fn names(&self) -> Vec<&str> {
        self.names.names()
    }

    /// [`SamplerRegistry::names`] without those that only choose other noise levels by an ending (`euler-karras`).
    pub fn plain_names(&self) -> Vec<&str> {
        let is_base = |base: &str| self.names.get(base).is_ok();
        let chooses_levels =
            |name: &str| ENDINGS.iter().any(|(ending, _)| name.strip_suffix(ending).is_some_and(is_base));
        self.names().into_iter().filter(|name| !chooses_levels(name)).collect()
    }

    /// The classes that checkpoints name, in order.
    pub fn classes(&self) -> Vec<&str> {
        self.classes.names()
    }

    /// Checks that there is a sampler of this name or class.
    ///
    /// # Errors
    /// [`Error::Config`] with the field `scheduler`, listing the known names.
    pub fn check(&self, name: &str) -> Result<()> {
        self.find(name).map(drop)
    }

    /// The sampler for a run of `steps` steps: the one called `name`, or else the checkpoint's own.
    ///
    /// As with diffusers' `from_config`, another class takes over the fields that it has too, and its own default for the
    /// rest.
    ///
    /// # Errors
    /// [`Error::Config`]: with `scheduler` for an unknown name; with `_class_name` for a checkpoint whose own class is
    /// unknown, or whose U-Net the sampler would read wrongly; with `steps` for a number of steps that it cannot make.
    pub fn build(
        &self,
        config: &SchedulerConfig,
        name: Option<&str>,
        steps: usize,
    ) -> Result<Box<dyn Sampler<T>>> {
        let builder = match name {
            Some(name) => self.find(name)?,
            None => self.classes.get(&config.class_name).map_err(|error| match error {
                Error::Config { reason, .. } => config.error("_class_name", reason),
                other => other,
            })?,
        };
        builder(config, steps)
    }

    fn find(&self, name: &str) -> Result<&Builder<T>> {
        if name == "euler-edm" {
            let reason = "expected euler-sgm, as \"euler-edm\" is called now: sgm's sampler, not that of EDM checkpoints";
            return Err(Error::config("scheduler", reason));
        }
        self.classes.get(name).or_else(|_| self.names.get(name)).map_err(|_| {
            let (names, endings) =
                (self.plain_names().join(", "), ENDINGS.map(|(ending, _)| ending).join(", "));
            let reason = format!("expected one of {names}, or one with an ending {endings}, got {name:?}");
            Error::config("scheduler", reason)
        })
    }
}

impl<T: Tensor> fmt::Debug for SamplerRegistry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SamplerRegistry")
            .field("names", &self.names())
            .field("classes", &self.classes())
            .finish()
    }
}
