//! Properties of configurations, schedules and token counts. They need no tensor.

// Helpers outside `#[test]` functions are tests, too.
#![allow(clippy::unwrap_used)]

use atedm_core::at_edm::{
    AtEdmConfig, Bicubic, CrossVote, Heads, LayerQuery, Norm, PrunePoint, ScoreSource, pruned_tokens,
};
use atedm_core::plugin::schedule::{Constant, PruneLess, PruneMore};
use atedm_core::plugin::{
    BlockId, BlockShape, Grid, GuidanceMasks, Levels, PruningSchedule, ScheduleQuery, Stage, StepOf, Tau,
};
use proptest::prelude::*;
use proptest::sample::select;

fn tau() -> impl Strategy<Value = Tau> {
    prop_oneof![
        (0..60usize).prop_map(Tau::Steps),
        (0..=100u8).prop_map(|share| Tau::Percent(f64::from(share)))
    ]
}

fn block() -> impl Strategy<Value = BlockId> {
    let stage = select(vec![Stage::Down, Stage::Mid, Stage::Up]);
    (stage, 0..3usize, 0..4usize, 1..4usize, 0..3usize).prop_map(
        |(stage, stage_index, index, more, level)| BlockId {
            stage,
            stage_index,
            index,
            count: index + more,
            level,
        },
    )
}

fn config() -> impl Strategy<Value = AtEdmConfig> {
    // Numbers have up to four decimals, as people write them. JSON may read longer ones to a neighbour of the nearest value.
    let decimal = || (0..10_000u32).prop_map(|n| f64::from(n) / 1e4);
    let numbers = (decimal(), 1..65usize, 1..50usize, decimal(), decimal(), tau());
    let choices = (
        select(vec![PrunePoint::AfterFf, PrunePoint::BeforeFf]),
        select(vec![ScoreSource::SelfAttention, ScoreSource::CrossAttention]),
        select(vec![Norm::L1, Norm::L2]),
        select(vec![Heads::Rms, Heads::Mean, Heads::Max]),
        select(vec![CrossVote::Entropy, CrossVote::Plain, CrossVote::Hard]),
        select(vec![Bicubic::Plain, Bicubic::Normalised]),
        select(vec![GuidanceMasks::PerRow, GuidanceMasks::Cond, GuidanceMasks::Mean]),
    );
    let names = (
        select(vec!["page-rank", "column-mean", "value-norm", "token-norm", "random"]),
        select(vec!["similarity", "soft", "update", "direct", "zero", "bicubic"]),
        select(vec!["prune-less", "prune-more", "constant"]),
    );
    let levels =
        prop_oneof![Just(Levels::All), prop::collection::vec(0..4usize, 1..3).prop_map(Levels::List),];
    let layers = prop::collection::vec(0..10usize, 1..4);
    (numbers, choices, names, levels, layers).prop_map(|(numbers, choices, names, levels, prune_layers)| {
        let (ratio, keep_multiple, max_iterations, epsilon, damping, tau) = numbers;
        let (prune_point, score, norm, heads, cross_vote, bicubic, guidance) = choices;
        let (scorer, recovery, schedule) = names;
        AtEdmConfig {
            ratio,
            keep_multiple,
            prune_point,
            prune_layers,
            levels,
            score,
            scorer: scorer.into(),
            max_iterations,
            epsilon,
            norm,
            heads,
            damping,
            cross_vote,
            recovery: recovery.into(),
            bicubic,
            schedule: schedule.into(),
            tau,
            guidance,
            ..AtEdmConfig::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A configuration that is written as JSON and read back is the same, and it is valid.
    #[test]
    fn configurations_survive_json(config in config()) {
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(&serde_json::from_str::<AtEdmConfig>(&text).unwrap(), &config);
        // Its options give the same method. They leave out options that have no effect.
        let again = AtEdmConfig::from_options("at-edm", &config.to_options()).unwrap();
        prop_assert_eq!(again.to_options(), config.to_options());
    }

    /// An unknown key is an error in every table.
    #[test]
    fn unknown_keys_are_errors(config in config(), key in "[a-z]{3,12}_x") {
        let mut value = serde_json::to_value(&config).unwrap();
        value.as_object_mut().unwrap().insert(key.clone(), true.into());
        prop_assert!(serde_json::from_value::<AtEdmConfig>(value.clone()).is_err());
        let mut options = config.to_options();
        options.insert(key.clone(), true.into());
        let error = AtEdmConfig::from_options("at-edm", &options).unwrap_err().to_string();
        prop_assert!(error.contains(&key), "{}", error);
    }

    /// Every schedule gives the ratio or no pruning. prune-less and prune-more differ only at stage edges. There, exactly
    /// one of them prunes.
    #[test]
    fn schedules_stay_in_bounds(
        tau in tau(), block in block(), total in 1..60usize, at in 0.0..1.0f64, ratio in 0.0..0.999f64,
    ) {
        let step = (at * total as f64) as usize;
        let query = ScheduleQuery { block, step, total, ratio };
        let (less, more) = (PruneLess { tau }, PruneMore { tau });
        let (spared, mirrored) = (less.ratio(&query), more.ratio(&query));
        prop_assert_eq!(Constant.ratio(&query), ratio);
        if block.is_stage_edge() {
            let early = step < tau.steps(total);
            prop_assert_eq!((spared, mirrored), if early { (0.0, ratio) } else { (ratio, 0.0) });
        } else {
            prop_assert_eq!((spared, mirrored), (ratio, ratio));
        }
        prop_assert_eq!(less.begin(total).is_ok(), tau.steps(total) <= total);
        prop_assert_eq!(less.clone_box().ratio(&query), spared);
    }

    /// Kept counts are the ratio of the tokens, rounded up to more kept tokens. They are never zero. They are never all
    /// tokens, unless the plan says so. The layers' counts never grow.
    #[test]
    fn token_counts_stay_in_bounds(
        config in config(), block in block(), depth in 1..12usize, tokens in 1..5000usize, step in 0..50usize,
    ) {
        let plan = config.plan().unwrap();
        let layers = plan.tokens(
            &BlockShape::new(block, depth, Grid::new(1, tokens)),
            StepOf { index: step, total: 50 },
        ).unwrap();
        prop_assert_eq!(layers.len(), depth);
        prop_assert_eq!(layers[0].self_attention, tokens);
        let mut before = tokens;
        for (i, layer) in layers.iter().enumerate() {
            prop_assert!(1 <= layer.feed_forward && layer.feed_forward <= layer.cross_attention);
            prop_assert_eq!(layer.self_attention, layer.cross_attention);
            prop_assert!(layer.self_attention <= before);
            if config.prune_point == PrunePoint::AfterFf {
                prop_assert_eq!(layer.feed_forward, layer.self_attention);
            }
            let query = LayerQuery {
                block, layer: i, depth, step, total: 50, tokens: layer.self_attention, protected: 0,
            };
            let kept = plan.kept(&query).unwrap();
            if i + 1 == depth || !config.prune_layers.contains(&i) || !config.levels.contains(block.level) {
                prop_assert_eq!(kept, None);
            }
            if let Some(kept) = kept {
                let least = layer.self_attention - pruned_tokens(config.ratio, layer.self_attention);
                prop_assert!(least <= kept && kept < layer.self_attention);
                prop_assert!(kept < least + config.keep_multiple);
                prop_assert!(kept % config.keep_multiple == 0);
            }
            before = layer.self_attention;
        }
    }

    /// The count is `floor(ratio · N)` in f64, and never all tokens.
    #[test]
    fn pruned_counts_are_floors(ratio in 0.0..1.0f64, tokens in 1..10_000usize) {
        let pruned = pruned_tokens(ratio, tokens);
        prop_assert!(pruned < tokens);
        prop_assert!(pruned as f64 <= ratio * tokens as f64);
        prop_assert!(pruned + 1 == tokens || (pruned + 1) as f64 > ratio * tokens as f64);
    }
}

/// Ratios, counts and shares out of range are errors that name the field.
#[test]
fn values_out_of_range_are_errors() {
    let base = AtEdmConfig::default;
    let bad = [
        ("ratio", AtEdmConfig { ratio: 1.0, ..base() }),
        ("ratio", AtEdmConfig { ratio: -0.1, ..base() }),
        ("ratio", AtEdmConfig { ratio: f64::NAN, ..base() }),
        ("keep_multiple", AtEdmConfig { keep_multiple: 0, ..base() }),
        ("max_iterations", AtEdmConfig { max_iterations: 0, ..base() }),
        ("epsilon", AtEdmConfig { epsilon: -1.0, ..base() }),
        ("epsilon", AtEdmConfig { epsilon: f64::NAN, ..base() }),
        ("damping", AtEdmConfig { damping: 1.0, ..base() }),
        ("prune_layers", AtEdmConfig { prune_layers: vec![], ..base() }),
        ("tau", AtEdmConfig { tau: Tau::Percent(101.0), ..base() }),
        ("budget_tflops", AtEdmConfig { budget_tflops: Some(f64::INFINITY), ..base() }),
        ("schedule", AtEdmConfig { schedule: "table".into(), ..base() }),
    ];
    for (field, config) in bad {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field}: ")), "{error}");
    }
}
