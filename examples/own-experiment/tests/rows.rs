//! The example on the model that comes with the program.

use std::path::Path;

use atedm_candle::{Candle, device};
use atedm_core::plugin::{Registry, Unpruned, Whole};
use atedm_core::{AttentionOps, DType, Result, Tensor};
use atedm_experiment::{Config, Experiment, Extension, Failure, GridEntry, Model, Outcome, Platform, Row};
use atedm_sdxl::schedulers::SamplerRegistry;
use example_own_experiment::{away_from_the_mean, table};

#[test]
fn a_closure_is_a_scorer_and_rows_are_typed() {
    let checkpoint = tempfile::tempdir().unwrap();
    atedm_shapes::write(checkpoint.path()).unwrap();
    let rows = away_from_the_mean(checkpoint.path(), 2).unwrap();
    let labels: Vec<&str> = rows.iter().map(|row| row.label.as_str()).collect();
    let points = [
        "none",
        "at-edm ratio=0.3 scorer=page-rank",
        "at-edm ratio=0.3 scorer=away",
        "at-edm ratio=0.5 scorer=page-rank",
        "at-edm ratio=0.5 scorer=away",
    ];
    assert_eq!(labels, points.repeat(2));
    for of_prompt in rows.chunks(5) {
        let [whole, pruned @ ..] = of_prompt else { panic!("expected rows") };
        assert!(whole.distances.is_none() && whole.tokens.is_empty());
        let tflop = |row: &Row| row.flops.mean_tflop;
        assert!(pruned.iter().all(|row| row.prompt == whole.prompt && tflop(row) < tflop(whole)));
        // a ratio decides the cost, a scorer which tokens go
        assert_eq!((tflop(&pruned[0]), tflop(&pruned[2])), (tflop(&pruned[1]), tflop(&pruned[3])));
        assert!(tflop(&pruned[2]) < tflop(&pruned[0]));
        assert_ne!(pruned[0].picture, pruned[1].picture);
        let ssim = |row: &Row| row.distances.as_ref().unwrap().ssim;
        assert!(pruned.iter().all(|row| ssim(row) < 1.0), "{}", table(&rows));
        // votes are G-WPR's: a closure casts none
        assert!(pruned[0].tokens[0].votes > 0.0 && pruned[1].tokens[0].votes == 0.0);
    }
    assert_eq!(table(&rows).lines().count(), 10);
}

/// Names of one's own: a method that leaves everything as it is, and a sampler that is DDIM.
struct Mine;

impl Extension for Mine {
    fn register<T: AttentionOps>(&self, registry: &mut Registry<T>) -> Result<()> {
        registry.register_method(
            "do-nothing",
            |_options, _facts| Ok(Whole),
            |_plan, _context| Ok(Box::new(Unpruned)),
        )
    }

    fn samplers<T: Tensor>(&self, samplers: &mut SamplerRegistry<T>) -> Result<()> {
        samplers.register("mine", |config, steps| {
            SamplerRegistry::with_builtins().build(config, Some("ddim"), steps)
        })
    }
}

/// The rows of the own method with this sampler.
fn whole_rows(checkpoint: &Path, scheduler: &str) -> Outcome<Vec<Row>> {
    let mut config = Config::new("own names", [("star", "a red star")], [GridEntry::new("do-nothing")])?;
    config.sampling.steps = 2;
    config.sampling.scheduler = Some(scheduler.into());
    let platform = Platform::cpu::<Candle>(DType::F32);
    Experiment::<Candle>::new(Model::open(checkpoint)?, device::parse("cpu")?, platform)
        .with(Mine)?
        .rows(&config, &())
}

#[test]
fn methods_and_samplers_have_names_too() {
    let checkpoint = tempfile::tempdir().unwrap();
    atedm_shapes::write(checkpoint.path()).unwrap();
    let [mine, ddim, euler] =
        ["mine", "ddim", "euler"].map(|name| whole_rows(checkpoint.path(), name).unwrap());
    let [whole, own] = &mine[..] else { panic!("expected two rows, got {}", mine.len()) };
    assert_eq!((whole.label.as_str(), own.label.as_str()), ("none", "do-nothing"));
    assert_eq!(whole.picture, own.picture);
    assert_eq!(own.picture, ddim[1].picture);
    assert_ne!(own.picture, euler[1].picture);
    let failure = whole_rows(checkpoint.path(), "hers").unwrap_err().to_string();
    assert!(
        failure.contains("scheduler") && failure.contains("hers") && failure.contains("mine"),
        "{failure}"
    );
}

#[test]
fn what_is_wrong_is_named() {
    let failure = away_from_the_mean(Path::new("no-such-folder"), 2).unwrap_err();
    assert!(matches!(&failure, Failure::Run(reason) if reason.contains("no-such-folder")), "{failure}");
}
