//! Methods and their parts by name, so that a user's own type stands in a configuration next to ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::masks::MaskSet;
use super::observe::{SharedObserver, Watching};
use super::reducer::{TokenReducer, Unpruned};
use super::scheduled::PruningSchedule;
use crate::at_edm::{self, AtEdmConfig, TokenRecovery, TokenScorer, TokenSelector};
use crate::backend::AttentionOps;
use crate::{Error, Result};

/// The options of a method or a part: a table of keys and values.
pub type Options = Map<String, Value>;

/// What a method is built for, besides its options.
pub struct BuildContext<T: AttentionOps> {
    /// The seed of methods that draw numbers, until a run brings its own.
    pub seed: u64,
    /// Is told about every decision.
    pub observer: Option<SharedObserver<T>>,
    /// Kept sets that replace scoring and selection.
    pub replay: Option<Arc<MaskSet>>,
    /// The model's deepest attention level, which `levels = "deepest"` stands for.
    pub deepest_level: Option<usize>,
}

impl<T: AttentionOps> Default for BuildContext<T> {
    fn default() -> Self {
        Self { seed: 0, observer: None, replay: None, deepest_level: None }
    }
}

impl<T: AttentionOps> Clone for BuildContext<T> {
    fn clone(&self) -> Self {
        Self {
            seed: self.seed,
            observer: self.observer.clone(),
            replay: self.replay.clone(),
            deepest_level: self.deepest_level,
        }
    }
}

/// What a part of AT-EDM (a scorer, selector, recovery or schedule) is built from.
#[derive(Debug, Clone, Copy)]
pub struct PartSpec<'a> {
    /// The part's own options: `scorer_options` for a scorer, and so on.
    pub options: &'a Options,
    /// The whole configuration.
    pub config: &'a AtEdmConfig,
    field: &'static str,
}

impl PartSpec<'_> {
    /// The part's options as a serde type.
    ///
    /// # Errors
    /// [`Error::Config`] naming the options' field, when they do not fit.
    pub fn parse<O: DeserializeOwned>(&self) -> Result<O> {
        serde_json::from_value(Value::Object(self.options.clone()))
            .map_err(|error| Error::config(self.field, error.to_string()))
    }

    /// That there are no options, for parts that take none.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first.
    pub fn expect_no_options(&self) -> Result<()> {
        match self.options.keys().next() {
            Some(key) => {
                Err(Error::config(format!("{}.{key}", self.field), "unknown option; this one takes none"))
            }
            None => Ok(()),
        }
    }
}

/// Builds a method.
pub type MethodBuilder<T> =
    Box<dyn Fn(&Options, &BuildContext<T>, &Registry<T>) -> Result<Box<dyn TokenReducer<T>>> + Send + Sync>;
/// Builds a part of type `P`.
pub type PartBuilder<P> = Box<dyn Fn(&PartSpec<'_>) -> Result<Box<P>> + Send + Sync>;

/// Builders by name.
struct Named<B> {
    kind: &'static str,
    builders: BTreeMap<String, B>,
}

impl<B> Named<B> {
    fn new(kind: &'static str) -> Self {
        Self { kind, builders: BTreeMap::new() }
    }

    fn insert(&mut self, name: &str, builder: B) -> Result<()> {
        if name.is_empty() || self.builders.contains_key(name) {
            return Err(Error::config(self.kind, format!("expected a new name, got {name:?}")));
        }
        self.builders.insert(name.to_string(), builder);
        Ok(())
    }

    fn names(&self) -> Vec<&str> {
        self.builders.keys().map(String::as_str).collect()
    }

    fn get(&self, name: &str) -> Result<&B> {
        self.builders.get(name).ok_or_else(|| {
            Error::config(self.kind, format!("expected one of {}, got {name:?}", self.names().join(", ")))
        })
    }
}

/// Schedules by name; they need no tensor, so that counts can be planned without one.
pub struct ScheduleRegistry {
    schedules: Named<PartBuilder<dyn PruningSchedule>>,
}

impl ScheduleRegistry {
    /// `prune-less`, `prune-more`, `constant` and `table`.
    pub fn with_builtins() -> Self {
        let mut schedules = Named::new("schedule");
        schedules.builders.extend(at_edm::builtin_schedules());
        Self { schedules }
    }

    /// Adds a schedule.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_>) -> Result<Box<dyn PruningSchedule>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.schedules.insert(name, Box::new(builder))
    }

    /// The schedule that `config` names.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, listing the known ones, or for bad options.
    pub fn build(&self, config: &AtEdmConfig) -> Result<Box<dyn PruningSchedule>> {
        let spec = PartSpec { options: &config.schedule_options, config, field: "schedule_options" };
        self.schedules.get(&config.schedule)?(&spec)
    }

    /// The known names.
    pub fn names(&self) -> Vec<&str> {
        self.schedules.names()
    }
}

/// Everything that a configuration can name.
pub struct Registry<T: AttentionOps> {
    methods: Named<MethodBuilder<T>>,
    scorers: Named<PartBuilder<dyn TokenScorer<T>>>,
    selectors: Named<PartBuilder<dyn TokenSelector<T>>>,
    recoveries: Named<PartBuilder<dyn TokenRecovery<T>>>,
    schedules: ScheduleRegistry,
}

impl<T: AttentionOps> Registry<T> {
    /// The methods `none`, `at-edm` and its presets, and all of AT-EDM's parts.
    pub fn with_builtins() -> Self {
        let mut registry = Self {
            methods: Named::new("method"),
            scorers: Named::new("scorer"),
            selectors: Named::new("selector"),
            recoveries: Named::new("recovery"),
            schedules: ScheduleRegistry::with_builtins(),
        };
        registry.scorers.builders.extend(at_edm::builtin_scorers());
        registry.selectors.builders.extend(at_edm::builtin_selectors());
        registry.recoveries.builders.extend(at_edm::builtin_recoveries());
        registry.methods.builders.extend(at_edm::builtin_methods());
        registry
            .methods
            .builders
            .insert("none".into(), Box::new(|options, context, _| none(options, context)));
        registry
    }

    /// Adds a method.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register_method(
        &mut self,
        name: &str,
        builder: impl Fn(&Options, &BuildContext<T>, &Self) -> Result<Box<dyn TokenReducer<T>>>
        + Send
        + Sync
        + 'static,
    ) -> Result<()> {
        self.methods.insert(name, Box::new(builder))
    }

    /// Adds a scorer, to be named by `scorer` in a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register_scorer(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_>) -> Result<Box<dyn TokenScorer<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.scorers.insert(name, Box::new(builder))
    }

    /// Adds a selector, to be named by `selector` in a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register_selector(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_>) -> Result<Box<dyn TokenSelector<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.selectors.insert(name, Box::new(builder))
    }

    /// Adds a recovery, to be named by `recovery` in a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register_recovery(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_>) -> Result<Box<dyn TokenRecovery<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.recoveries.insert(name, Box::new(builder))
    }

    /// Adds a schedule, to be named by `schedule` in a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register_schedule(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_>) -> Result<Box<dyn PruningSchedule>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.schedules.register(name, builder)
    }

    /// The method `name` from its options, a table or null.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, listing the known ones, or for options that do not fit.
    pub fn build(
        &self,
        name: &str,
        options: &Value,
        context: &BuildContext<T>,
    ) -> Result<Box<dyn TokenReducer<T>>> {
        let empty = Options::new();
        let options = match options {
            Value::Object(options) => options,
            Value::Null => &empty,
            other => return Err(Error::config(name, format!("expected a table of options, got {other}"))),
        };
        self.methods.get(name)?(options, context, self)
    }

    /// The known methods.
    pub fn names(&self) -> Vec<&str> {
        self.methods.names()
    }

    /// The known schedules.
    pub fn schedules(&self) -> &ScheduleRegistry {
        &self.schedules
    }

    /// The scorer that `config` names.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, listing the known ones, or for bad options.
    pub fn scorer(&self, config: &AtEdmConfig) -> Result<Box<dyn TokenScorer<T>>> {
        let spec = PartSpec { options: &config.scorer_options, config, field: "scorer_options" };
        self.scorers.get(&config.scorer)?(&spec)
    }

    /// The selector that `config` names.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, listing the known ones, or for bad options.
    pub fn selector(&self, config: &AtEdmConfig) -> Result<Box<dyn TokenSelector<T>>> {
        let spec = PartSpec { options: &config.selector_options, config, field: "selector_options" };
        self.selectors.get(&config.selector)?(&spec)
    }

    /// The recovery that `config` names.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, listing the known ones, or for bad options.
    pub fn recovery(&self, config: &AtEdmConfig) -> Result<Box<dyn TokenRecovery<T>>> {
        let spec = PartSpec { options: &config.recovery_options, config, field: "recovery_options" };
        self.recoveries.get(&config.recovery)?(&spec)
    }
}

/// The method `none`.
fn none<T: AttentionOps>(options: &Options, context: &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> {
    if let Some(key) = options.keys().next() {
        return Err(Error::config(key, "unknown option; the method none takes none"));
    }
    Ok(match &context.observer {
        Some(observer) => Box::new(Watching { observer: observer.clone() }),
        None => Box::new(Unpruned),
    })
}
