//! AT-EDM's scorers, selectors and recoveries by name: the built-in ones and those that a program registers.
//!
//! Schedules are not among them. Every method has one, so they are registered in
//! [`Registry::register_schedule`](crate::plugin::Registry::register_schedule).

use std::sync::Arc;

use super::config::AtEdmConfig;
use super::options::Bicubic;
use super::recovery::{
    BicubicInterpolation, DirectCopy, SimilarityCopy, SoftCopy, TokenRecovery, UpdateCopy, ZeroPadding,
};
use super::scoring::{
    PageRank, PageRankOptions, RandomScores, TokenNorm, TokenScorer, ValueNorm, WarmPageRank,
};
use super::selection::{Sample, TokenSelector, TopK};
use super::slots::{RECOVERY, SCORER, SELECTOR};
use crate::backend::AttentionOps;
use crate::plugin::PartSpec;
use crate::plugin::options::{Named, PartSlot};
use crate::{Error, Result};

/// Builds a part of type `P`.
type PartBuilder<P> = Arc<dyn Fn(&PartSpec<'_, AtEdmConfig>) -> Result<Box<P>> + Send + Sync>;
/// Wraps a part after it was built.
type Wrapper<P> = Arc<dyn Fn(Box<P>) -> Box<P> + Send + Sync>;

/// Parts of one kind, and what wraps each part when it is built.
struct Kind<P: ?Sized> {
    slot: PartSlot,
    named: Named<PartBuilder<P>>,
    wrapper: Option<Wrapper<P>>,
}

impl<P: ?Sized> Kind<P> {
    fn new(slot: PartSlot, builtins: impl IntoIterator<Item = (String, PartBuilder<P>)>) -> Self {
        let mut named = Named::new(slot.name);
        named.extend(builtins);
        Self { slot, named, wrapper: None }
    }

    fn build(&self, name: &str, spec: &PartSpec<'_, AtEdmConfig>) -> Result<Box<P>> {
        let part = self.named.get(name)?(spec)?;
        Ok(match &self.wrapper {
            Some(wrap) => wrap(part),
            None => part,
        })
    }
}

/// Scorers, selectors and recoveries by name.
pub struct Parts<T: AttentionOps> {
    scorers: Kind<dyn TokenScorer<T>>,
    selectors: Kind<dyn TokenSelector<T>>,
    recoveries: Kind<dyn TokenRecovery<T>>,
}

impl<T: AttentionOps> Parts<T> {
    /// The built-in parts.
    pub fn with_builtins() -> Self {
        Self {
            scorers: Kind::new(SCORER, scorers()),
            selectors: Kind::new(SELECTOR, selectors()),
            recoveries: Kind::new(RECOVERY, recoveries()),
        }
    }

    /// Adds a scorer. A configuration selects it by its name: `scorer = "NAME"`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when the name is taken or empty.
    pub fn register_scorer(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_, AtEdmConfig>) -> Result<Box<dyn TokenScorer<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.scorers.named.insert(name, Arc::new(builder))
    }

    /// Adds a selector. A configuration selects it by its name: `selector = "NAME"`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when the name is taken or empty.
    pub fn register_selector(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_, AtEdmConfig>) -> Result<Box<dyn TokenSelector<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.selectors.named.insert(name, Arc::new(builder))
    }

    /// Adds a recovery. A configuration selects it by its name: `recovery = "NAME"`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when the name is taken or empty.
    pub fn register_recovery(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_, AtEdmConfig>) -> Result<Box<dyn TokenRecovery<T>>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.recoveries.named.insert(name, Arc::new(builder))
    }

    /// Passes every scorer that is built from now on through `wrap`. A program can time or watch scorers this way.
    pub fn wrap_scorers(
        &mut self,
        wrap: impl Fn(Box<dyn TokenScorer<T>>) -> Box<dyn TokenScorer<T>> + Send + Sync + 'static,
    ) {
        self.scorers.wrapper = Some(Arc::new(wrap));
    }

    /// Passes every recovery that is built from now on through `wrap`.
    pub fn wrap_recoveries(
        &mut self,
        wrap: impl Fn(Box<dyn TokenRecovery<T>>) -> Box<dyn TokenRecovery<T>> + Send + Sync + 'static,
    ) {
        self.recoveries.wrapper = Some(Arc::new(wrap));
    }

    /// Builds the scorer that `config` names.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an unknown name, listing the known ones, or for bad options.
    pub fn scorer(&self, config: &AtEdmConfig) -> Result<Box<dyn TokenScorer<T>>> {
        let spec = PartSpec::new(&self.scorers.slot, &config.scorer_options, config);
        self.scorers.build(&config.scorer, &spec)
    }

    /// Builds the selector that `config` names.
    ///
    /// # Errors
    /// As [`Parts::scorer`].
    pub fn selector(&self, config: &AtEdmConfig) -> Result<Box<dyn TokenSelector<T>>> {
        let spec = PartSpec::new(&self.selectors.slot, &config.selector_options, config);
        self.selectors.build(&config.selector, &spec)
    }

    /// Builds the recovery that `config` names.
    ///
    /// # Errors
    /// As [`Parts::scorer`].
    pub fn recovery(&self, config: &AtEdmConfig) -> Result<Box<dyn TokenRecovery<T>>> {
        let spec = PartSpec::new(&self.recoveries.slot, &config.recovery_options, config);
        self.recoveries.build(&config.recovery, &spec)
    }
}

/// An entry for a part without an options table: its settings are fields of the configuration.
fn part<P: ?Sized + 'static>(
    name: &str,
    build: impl Fn(&AtEdmConfig) -> Result<Box<P>> + Send + Sync + 'static,
) -> (String, PartBuilder<P>) {
    let builder = move |spec: &PartSpec<'_, AtEdmConfig>| {
        spec.expect_no_options()?;
        build(spec.config)
    };
    (name.to_string(), Arc::new(builder))
}

fn page_rank_options(config: &AtEdmConfig) -> PageRankOptions {
    PageRankOptions {
        source: config.score,
        max_iterations: config.max_iterations,
        epsilon: config.epsilon,
        norm: config.norm,
        heads: config.heads,
        damping: config.damping,
        cross_vote: config.cross_vote,
    }
}

fn scorers<T: AttentionOps>() -> [(String, PartBuilder<dyn TokenScorer<T>>); 5] {
    [
        part::<dyn TokenScorer<T>>("page-rank", |config| {
            let rank = PageRank::new(page_rank_options(config))?
                .with_level_iterations(config.level_iterations.clone())?;
            if !config.warm_start {
                return Ok(Box::new(rank));
            }
            let warm = WarmPageRank::new(rank);
            Ok(Box::new(match config.cold_iterations {
                Some(cap) => warm.with_cold_iterations(cap)?,
                None => warm,
            }))
        }),
        part::<dyn TokenScorer<T>>("column-mean", |config| {
            Ok(Box::new(PageRank::column_mean(page_rank_options(config))))
        }),
        part::<dyn TokenScorer<T>>("value-norm", |config| Ok(Box::new(ValueNorm { heads: config.heads }))),
        part::<dyn TokenScorer<T>>("token-norm", |_| Ok(Box::new(TokenNorm))),
        part::<dyn TokenScorer<T>>("random", |_| Ok(Box::new(RandomScores))),
    ]
}

fn selectors<T: AttentionOps>() -> [(String, PartBuilder<dyn TokenSelector<T>>); 2] {
    [
        part::<dyn TokenSelector<T>>("top-k", |_| Ok(Box::new(TopK))),
        ("sample".into(), Arc::new(|spec| Ok(Box::new(Sample::new(spec.parse::<Sample>()?.temperature)?)))),
    ]
}

fn recoveries<T: AttentionOps>() -> [(String, PartBuilder<dyn TokenRecovery<T>>); 6] {
    [
        part::<dyn TokenRecovery<T>>("similarity", |_| Ok(Box::new(SimilarityCopy))),
        part::<dyn TokenRecovery<T>>("direct", |_| Ok(Box::new(DirectCopy))),
        part::<dyn TokenRecovery<T>>("zero", |_| Ok(Box::new(ZeroPadding))),
        part::<dyn TokenRecovery<T>>("bicubic", |config| {
            Ok(Box::new(BicubicInterpolation { mode: config.bicubic }))
        }),
        // These two read `recovery_options`, as a registered recovery does.
        ("soft".into(), Arc::new(|spec| Ok(Box::new(soft(spec)?)))),
        ("update".into(), Arc::new(|spec| update(spec))),
    ]
}

fn soft(spec: &PartSpec<'_, AtEdmConfig>) -> Result<SoftCopy> {
    let soft: SoftCopy = spec.parse()?;
    soft.validate()?;
    Ok(soft)
}

/// Update copy. `changes` names the recovery of the changes, and the other options are that recovery's.
fn update<T: AttentionOps>(spec: &PartSpec<'_, AtEdmConfig>) -> Result<Box<dyn TokenRecovery<T>>> {
    let mut options = spec.options.clone();
    let changes = options.remove("changes");
    let rest = PartSpec::new(&RECOVERY, &options, spec.config);
    match changes.as_ref().map(|name| name.as_str().unwrap_or_default()) {
        None | Some("soft") => Ok(Box::new(UpdateCopy { changes: soft(&rest)? })),
        Some("bicubic") => {
            rest.expect_no_options()?;
            Ok(Box::new(UpdateCopy { changes: BicubicInterpolation { mode: Bicubic::Normalised } }))
        }
        Some(_) => {
            let reason = format!("expected \"soft\" or \"bicubic\", got {}", changes.unwrap_or_default());
            Err(Error::config("recovery_options.changes", reason))
        }
    }
}
