//! One suite for every token-reducing method: ours, and a stranger's. A [`Subject`] says how the method is built; the
//! suite makes it live through generated sequences of runs, steps, blocks, batches and grids.
//!
//! A check is `fn(&Subject<B>) -> Result<()>`: an unexpected error or a failed assertion fails it. `method_suite!` names
//! them as tests, [`run_suite`] makes a [`Report`] of them.

mod commands;
mod machine;
mod reductions;
mod runs;
mod watch;
mod wrong;

use atedm_core::plugin::{BlockShape, LayerTokens, NestId, StepOf, TokenReducer};
use atedm_core::{Backend, DType, DeviceOf, Result};

use crate::backend::support::TensorOf;
use crate::report::{KnownFailure, Outcome, Report};

pub use reductions::*;
pub use runs::*;

/// What every check is: an unexpected error or a failed assertion fails it.
pub type CheckFn<B> = fn(&Subject<B>) -> Result<()>;

type Build<B> = Box<dyn Fn() -> Result<Box<dyn TokenReducer<TensorOf<B>>>>>;
/// Whether a step is guided.
type Guidance = Box<dyn Fn(StepOf) -> bool>;
/// The nest that does not run at a step.
type Replaced = Box<dyn Fn(StepOf) -> Option<NestId>>;
type Counts = Box<dyn Fn(&BlockShape, StepOf) -> Option<Vec<LayerTokens>>>;

/// A method as the suite needs it: how to build it anew, and what is known of it beforehand.
pub struct Subject<B: Backend> {
    name: String,
    device: DeviceOf<B>,
    dtype: DType,
    build: Build<B>,
    idle: Option<Build<B>>,
    counts: Option<Counts>,
    replaced: Option<Replaced>,
    guidance: Option<Guidance>,
}

impl<B: Backend> Subject<B> {
    /// The method `name` as `build` makes it, on a device. Take the backend's widest dtype: choices between tokens do
    /// not survive rounding.
    pub fn new(
        name: impl Into<String>,
        (device, dtype): (DeviceOf<B>, DType),
        build: impl Fn() -> Result<Box<dyn TokenReducer<TensorOf<B>>>> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            device,
            dtype,
            build: Box::new(build),
            idle: None,
            counts: None,
            replaced: None,
            guidance: None,
        }
    }

    /// The same method asked to remove nothing.
    #[must_use]
    pub fn with_idle(
        mut self,
        build: impl Fn() -> Result<Box<dyn TokenReducer<TensorOf<B>>>> + 'static,
    ) -> Self {
        self.idle = Some(Box::new(build));
        self
    }

    /// What the method says beforehand of the tokens that each layer of a block runs on at a step. `None` where only a run
    /// can tell.
    #[must_use]
    pub fn with_counts(
        mut self,
        counts: impl Fn(&BlockShape, StepOf) -> Option<Vec<LayerTokens>> + 'static,
    ) -> Self {
        self.counts = Some(Box::new(counts));
        self
    }

    /// What the method says beforehand of the nest that does not run at a step. The machine's three blocks lie in nests
    /// 0 to 2: nest n holds every block from the n-th on.
    #[must_use]
    pub fn with_replaced(mut self, replaced: impl Fn(StepOf) -> Option<NestId> + 'static) -> Self {
        self.replaced = Some(Box::new(replaced));
        self
    }

    /// What the method says beforehand of the steps at which a guided run is guided.
    #[must_use]
    pub fn with_guidance(mut self, guidance: impl Fn(StepOf) -> bool + 'static) -> Self {
        self.guidance = Some(Box::new(guidance));
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the subject has what a check needs.
    fn has_what_it_takes(&self, check: &str) -> bool {
        match check {
            "asked_for_nothing_it_does_nothing" => self.idle.is_some(),
            "counts_are_those_planned" => self.counts.is_some(),
            "nests_are_those_planned" => self.replaced.is_some(),
            "guidance_ends_as_planned" => self.guidance.is_some(),
            _ => true,
        }
    }

    fn outcome(&self, name: &str, check: CheckFn<B>, known: &[KnownFailure]) -> Outcome {
        if self.has_what_it_takes(name) {
            Outcome::of(("method", name), self.dtype, known, || check(self))
        } else {
            Outcome::not_applicable(("method", name), self.dtype)
        }
    }
}

/// Runs one check. A listed failure that passes fails the run, as does an unlisted failure.
///
/// # Panics
/// When the outcome is not the expected one.
pub fn run<B: Backend>(name: &str, check: CheckFn<B>, subject: &Subject<B>, known: &[KnownFailure]) {
    subject.outcome(name, check, known).assert(&subject.name);
}

/// Runs every check, whatever they give.
pub fn run_suite<B: Backend>(subject: &Subject<B>, known: &[KnownFailure]) -> Report {
    let outcomes = checks::<B>().into_iter().map(|(name, check)| subject.outcome(name, check, known));
    Report::new("method", &subject.name, outcomes.collect())
}

/// Emits one `#[test]` per check for a method: `method_suite!(name, Backend, subject[, known failures])`, where
/// `subject` makes a [`Subject`](crate::method::Subject) of that backend.
#[macro_export]
macro_rules! method_suite {
    ($suite:ident, $backend:ty, $subject:expr) => {
        $crate::method_suite!($suite, $backend, $subject, &[]);
    };
    ($suite:ident, $backend:ty, $subject:expr, $known:expr) => {
        #[cfg(test)]
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $crate::each_method_check!($backend, $subject, $known);
        }
    };
}

macro_rules! method_checks {
    ($d:tt; $($check:ident)*) => {
        /// Every check of the suite: its name, and the check itself.
        pub fn checks<B: Backend>() -> Vec<(&'static str, CheckFn<B>)> {
            vec![$((stringify!($check), $check::<B> as CheckFn<B>),)*]
        }

        #[doc(hidden)]
        #[macro_export]
        macro_rules! each_method_check {
            ($d backend:ty, $d subject:expr, $d known:expr) => {$(
                #[test]
                fn $check() {
                    let check = $d crate::method::$check::<$d backend>;
                    $d crate::method::run::<$d backend>(stringify!($check), check, &$d subject, $d known);
                }
            )*};
        }
    };
}

method_checks! { $;
    every_life_runs
    a_token_always_stays
    shrink_and_restore_fit
    what_is_added_is_restored_apart
    a_copy_does_the_same
    positions_name_what_stays
    transformers_run_or_are_refused
    tables_follow_the_tokens
    protected_tokens_are_untouched
    reductions_refuse_what_does_not_fit
    wrong_tensors_never_panic
    equal_runs_are_equal
    images_do_not_depend_on_their_batch
    images_may_take_turns
    asked_for_nothing_it_does_nothing
    a_run_forgets_the_runs_before
    a_cancelled_run_leaves_nothing
    counts_are_those_planned
    nests_are_those_planned
    guidance_ends_as_planned
}

#[cfg(test)]
mod tests {
    use atedm_core::reference::Reference64;

    use super::*;

    /// A check that is written but not listed would never run.
    #[test]
    fn every_check_is_listed() {
        let listed = checks::<Reference64>();
        for source in [include_str!("reductions.rs"), include_str!("runs.rs")] {
            for line in source.lines().filter(|line| line.starts_with("pub fn ")) {
                let name = line.trim_start_matches("pub fn ").split(['<', '(']).next().unwrap();
                assert!(listed.iter().any(|(other, _)| *other == name), "{name} is not listed");
            }
        }
    }
}
