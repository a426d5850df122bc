//! AT-EDM's own parts and presets, as entries of a registry.

use super::config::AtEdmConfig;
use super::presets;
use super::recovery::{BicubicInterpolation, DirectCopy, SimilarityCopy, TokenRecovery, ZeroPadding};
use super::schedule::{Constant, PruneLess, PruneMore, ScheduleTable, Table};
use super::scoring::{
    PageRank, PageRankOptions, RandomScores, TokenNorm, TokenScorer, ValueNorm, WarmPageRank,
};
use super::selection::{TokenSelector, TopK};
use crate::backend::AttentionOps;
use crate::plugin::{MethodBuilder, PartBuilder, PartSpec, PruningSchedule};
use crate::{Error, Result};

/// An entry for a part that takes no options of its own: its settings are fields of the configuration.
fn part<P: ?Sized + 'static>(
    name: &str,
    build: impl Fn(&AtEdmConfig) -> Result<Box<P>> + Send + Sync + 'static,
) -> (String, PartBuilder<P>) {
    let builder = move |spec: &PartSpec<'_>| {
        spec.expect_no_options()?;
        build(spec.config)
    };
    (name.to_string(), Box::new(builder))
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

pub(crate) fn builtin_scorers<T: AttentionOps>() -> [(String, PartBuilder<dyn TokenScorer<T>>); 5] {
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

pub(crate) fn builtin_selectors<T: AttentionOps>() -> [(String, PartBuilder<dyn TokenSelector<T>>); 1] {
    [part::<dyn TokenSelector<T>>("top-k", |_| Ok(Box::new(TopK)))]
}

pub(crate) fn builtin_recoveries<T: AttentionOps>() -> [(String, PartBuilder<dyn TokenRecovery<T>>); 4] {
    [
        part::<dyn TokenRecovery<T>>("similarity", |_| Ok(Box::new(SimilarityCopy))),
        part::<dyn TokenRecovery<T>>("direct", |_| Ok(Box::new(DirectCopy))),
        part::<dyn TokenRecovery<T>>("zero", |_| Ok(Box::new(ZeroPadding))),
        part::<dyn TokenRecovery<T>>("bicubic", |config| {
            Ok(Box::new(BicubicInterpolation { mode: config.bicubic }))
        }),
    ]
}

pub(crate) fn builtin_schedules() -> [(String, PartBuilder<dyn PruningSchedule>); 4] {
    [
        part::<dyn PruningSchedule>("prune-less", |config| Ok(Box::new(PruneLess { tau: config.tau }))),
        part::<dyn PruningSchedule>("prune-more", |config| Ok(Box::new(PruneMore { tau: config.tau }))),
        part::<dyn PruningSchedule>("constant", |_| Ok(Box::new(Constant))),
        part::<dyn PruningSchedule>("table", |config| Ok(Box::new(table(config)?))),
    ]
}

fn table(config: &AtEdmConfig) -> Result<Table> {
    let table = match (&config.table, &config.schedule_file) {
        (Some(table), _) => table.clone(),
        (None, Some(path)) => ScheduleTable::from_file(path)?,
        (None, None) => {
            return Err(Error::config("schedule", "\"table\" needs either table or schedule_file"));
        }
    };
    Table::new(table)
}

pub(crate) fn builtin_methods<T: AttentionOps>() -> [(String, MethodBuilder<T>); 8] {
    presets::names().map(|preset| {
        let builder: MethodBuilder<T> = Box::new(move |options, context, registry| {
            let config = AtEdmConfig::from_options(preset, options)?;
            Ok(Box::new(config.build(context, registry)?))
        });
        (preset.to_string(), builder)
    })
}
