//! Methods by name, so that a configuration can name a user's method in the same way as ours.
//!
//! An entry has two halves. The first half makes a [`MethodPlan`] from options and facts, without a tensor. The
//! second half builds a [`TokenReducer`] from a plan. A [`MethodCatalogue`] holds the first half of every entry.

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
use super::stack::{self, StackPlan};
use crate::backend::AttentionOps;
use crate::{Error, Result};

/// What a method is built from, besides its plan.
pub struct BuildContext<T: AttentionOps> {
    /// The seed of methods that draw random numbers. It applies until a run brings its own.
    pub seed: u64,
    /// Hears every decision.
    pub observer: Option<SharedObserver<T>>,
    /// Kept sets to use in place of scoring and selection.
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

/// The descriptions of every method and every schedule: all that needs no tensor.
#[derive(Clone)]
pub struct MethodCatalogue {
    methods: Named<Describer>,
    schedules: ScheduleRegistry,
}

impl MethodCatalogue {
    /// Describes the method `name`, or the [stack](super::stack) of methods, with these options. `facts` may hold a model.
    ///
    /// # Errors
    /// - [`Error::Config`] for an unknown name; it lists the known names. Also for options that do not fit, for a
    ///   nest that the model lacks, and for members of a stack that do the same thing.
    /// - [`Error::Plugin`] for a model that needs positions and a method that gives none.
    pub fn describe(&self, name: &str, options: &Options, facts: &Facts<'_>) -> Result<Box<dyn MethodPlan>> {
        match stack::is_stack(name) {
            true => stack::describe(name, options, facts, |member, options| {
                self.describe_one(member, options, facts)
            }),
            false => self.describe_one(name, options, facts),
        }
    }

    fn describe_one(&self, name: &str, options: &Options, facts: &Facts<'_>) -> Result<Box<dyn MethodPlan>> {
        let plan = self.methods.get(name)?(options, facts)?;
        let Some(model) = facts.model else { return Ok(plan) };
        if model.needs_positions && !plan.gives_positions() {
            let reason = "leaves tokens that stand for no single places, and this model gathers rotary or other tables by them";
            return Err(Error::Plugin { name: name.into(), reason: reason.into() });
        }
        match model
            .each_step()
            .filter_map(|step| plan.replaced(step))
            .find(|nest| model.nest(*nest).is_none())
        {
            None => Ok(plan),
            Some(nest) => {
                let reason = match model.nests.len() {
                    0 => "the model names no nests".to_string(),
                    count => format!("the model's nests are 0 to {}", count - 1),
                };
                Err(Error::config(name, format!("gives an earlier output of {nest}, and {reason}")))
            }
        }
    }

    /// Facts that hold only the registered schedules.
    pub fn facts(&self) -> Facts<'_> {
        Facts::new(&self.schedules)
    }

    /// The names of the known methods.
    pub fn names(&self) -> Vec<&str> {
        self.methods.names()
    }

    /// The known schedules.
    pub fn schedules(&self) -> &ScheduleRegistry {
        &self.schedules
    }
}

/// Everything that a configuration can name, for one tensor type.
pub struct Registry<T: AttentionOps> {
    catalogue: MethodCatalogue,
    builders: Named<Builder<T>>,
}

impl<T: AttentionOps> Registry<T> {
    /// A registry with the identity, `none`, and the built-in schedules. Add methods to it.
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

    /// Adds a method by two functions: one describes it, the other builds it from that description.
    ///
    /// # Errors
    /// [`Error::Config`] when the name is taken or empty, or contains a `+`, which joins the names of a stack.
    pub fn register_method<P: MethodPlan>(
        &mut self,
        name: &str,
        describe: impl Fn(&Options, &Facts<'_>) -> Result<P> + Send + Sync + 'static,
        build: impl Fn(&P, &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.catalogue.methods.check_new(name)?;
        if stack::is_stack(name) {
            return Err(Error::config("method", format!("expected a name without +, got {name:?}")));
        }
        self.set_method(name, describe, build);
        Ok(())
    }

    /// Sets the method of a name. It replaces an earlier one.
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

    /// Adds a schedule. The option `schedule` of any method can then name it.
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

    /// The descriptions of the methods, without their tensors.
    pub fn catalogue(&self) -> &MethodCatalogue {
        &self.catalogue
    }

    /// Builds the method `name` from `plan`.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name, with the known names, or for a plan that does not fit.
    /// [`Error::Plugin`] when the plan belongs to another method.
    pub fn build_plan(
        &self,
        name: &str,
        plan: &dyn MethodPlan,
        context: &BuildContext<T>,
    ) -> Result<Box<dyn TokenReducer<T>>> {
        let Some(plan) = plan.downcast_ref::<StackPlan>() else {
            return self.builders.get(name)?(plan, context);
        };
        let build = |(name, plan): (&str, &dyn MethodPlan)| {
            Ok((name.to_string(), self.build_plan(name, plan, context)?))
        };
        let members = plan.members().map(build).collect::<Result<Vec<_>>>()?;
        Ok(stack::build(members))
    }

    /// Describes and builds the method `name` for any model. The options are a table or null.
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
