//! Methods by name, so that a user's own stands in a configuration next to ours.
//!
//! An entry has two halves. The one describes: from options and facts it makes a [`MethodPlan`], without a tensor. The other
//! builds: from a plan it makes a [`TokenReducer`]. A [`MethodCatalogue`] holds the first half of every entry.

use std::any::type_name;
use std::sync::Arc;

use serde_json::Value;

use super::masks::MaskSet;
use super::observe::{SharedObserver, Watching};
use super::options::{Named, Options, PartSpec};
use super::placement::Placement;
use super::plan::{Facts, MethodPlan, Whole};
use super::reducer::{TokenReducer, Unpruned};
use super::schedule::{PruningSchedule, ScheduleRegistry};
use crate::backend::AttentionOps;
use crate::{Error, Result};

/// What a method is built for, besides its plan.
pub struct BuildContext<T: AttentionOps> {
    /// The seed of methods that draw numbers, until a run brings its own.
    pub seed: u64,
    /// Is told about every decision.
    pub observer: Option<SharedObserver<T>>,
    /// Kept sets that replace scoring and selection.
    pub replay: Option<Arc<MaskSet>>,
}

impl<T: AttentionOps> Default for BuildContext<T> {
    fn default() -> Self {
        Self { seed: 0, observer: None, replay: None }
    }
}

impl<T: AttentionOps> Clone for BuildContext<T> {
    fn clone(&self) -> Self {
        Self { seed: self.seed, observer: self.observer.clone(), replay: self.replay.clone() }
    }
}

type Describer = Arc<dyn Fn(&Options, &Facts<'_>) -> Result<Box<dyn MethodPlan>> + Send + Sync>;
type Builder<T> =
    Arc<dyn Fn(&dyn MethodPlan, &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> + Send + Sync>;

/// What every method is, and every schedule: all that needs no tensor.
#[derive(Clone)]
pub struct MethodCatalogue {
    methods: Named<Describer>,
    schedules: ScheduleRegistry,
}

impl MethodCatalogue {
    /// The method `name` with these options, for a model if `facts` hold one.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, listing the known ones, or for options that do not fit; [`Error::Plugin`] for a
    /// model that needs positions and a method that gives none.
    pub fn describe(&self, name: &str, options: &Options, facts: &Facts<'_>) -> Result<Box<dyn MethodPlan>> {
        let plan = self.methods.get(name)?(options, facts)?;
        if facts.model.is_some_and(|model| model.needs_positions) && !plan.gives_positions() {
            let reason = "leaves tokens that stand for no single places, and this model gathers rotary or other tables by them";
            return Err(Error::Plugin { name: name.into(), reason: reason.into() });
        }
        Ok(plan)
    }

    /// Facts that hold the registered schedules and nothing else.
    pub fn facts(&self) -> Facts<'_> {
        Facts::new(&self.schedules)
    }

    /// The known methods.
    pub fn names(&self) -> Vec<&str> {
        self.methods.names()
    }

    /// The known schedules.
    pub fn schedules(&self) -> &ScheduleRegistry {
        &self.schedules
    }
}

/// Everything that a configuration can name, for one type of tensor.
pub struct Registry<T: AttentionOps> {
    catalogue: MethodCatalogue,
    builders: Named<Builder<T>>,
}

impl<T: AttentionOps> Registry<T> {
    /// The identity, `none`, and the built-in schedules: a registry to add methods to.
    pub fn of_identity() -> Self {
        let catalogue =
            MethodCatalogue { methods: Named::new("method"), schedules: ScheduleRegistry::with_builtins() };
        let mut registry = Self { catalogue, builders: Named::new("method") };
        registry.set_method(
            "none",
            |options, _| match options.keys().next() {
                Some(key) => Err(Error::config(key, "unknown option; the method none takes none")),
                None => Ok(Whole),
            },
            |_, context| {
                Ok(match &context.observer {
                    Some(observer) => Box::new(Watching { observer: observer.clone() }),
                    None => Box::new(Unpruned),
                })
            },
        );
        registry
    }

    /// Adds a method: how it is described, and how it is built of what describes it.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register_method<P: MethodPlan>(
        &mut self,
        name: &str,
        describe: impl Fn(&Options, &Facts<'_>) -> Result<P> + Send + Sync + 'static,
        build: impl Fn(&P, &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.catalogue.methods.check_new(name)?;
        self.set_method(name, describe, build);
        Ok(())
    }

    /// Sets what a name stands for, whatever it was.
    pub(crate) fn set_method<P: MethodPlan>(
        &mut self,
        name: &str,
        describe: impl Fn(&Options, &Facts<'_>) -> Result<P> + Send + Sync + 'static,
        build: impl Fn(&P, &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> + Send + Sync + 'static,
    ) {
        let describer: Describer = Arc::new(move |options, facts| Ok(Box::new(describe(options, facts)?)));
        let of = name.to_string();
        let builder: Builder<T> = Arc::new(move |plan, context| match plan.downcast_ref::<P>() {
            Some(plan) => build(plan, context),
            None => {
                let reason = format!("expected a plan of type {}, got {plan:?}", type_name::<P>());
                Err(Error::Plugin { name: of.clone(), reason })
            }
        });
        self.catalogue.methods.set(name, describer);
        self.builders.set(name, builder);
    }

    /// Adds a schedule, to be named by `schedule` in a configuration of any method.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty.
    pub fn register_schedule(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_, Placement>) -> Result<Box<dyn PruningSchedule>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.catalogue.schedules.register(name, builder)
    }

    /// What the methods are, without their tensors.
    pub fn catalogue(&self) -> &MethodCatalogue {
        &self.catalogue
    }

    /// The method `name` as `plan` describes it.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, listing the known ones, or for a plan that does not fit; [`Error::Plugin`] when
    /// the plan is another method's.
    pub fn build_plan(
        &self,
        name: &str,
        plan: &dyn MethodPlan,
        context: &BuildContext<T>,
    ) -> Result<Box<dyn TokenReducer<T>>> {
        self.builders.get(name)?(plan, context)
    }

    /// The method `name` from its options, a table or null, for whichever model: described and built at once.
    ///
    /// # Errors
    /// As [`MethodCatalogue::describe`] and [`Registry::build_plan`].
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
        let plan = self.catalogue.describe(name, options, &self.catalogue.facts())?;
        self.build_plan(name, plan.as_ref(), context)
    }
}
