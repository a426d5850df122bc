//! SD-XL's real U-Net at 1024 px on the backend without data. It counts every multiplication and every token.

// Helpers outside `#[test]` functions are tests, too.
#![allow(clippy::unwrap_used)]

use atedm_conformance::shapes::{Ledger, ShapeDevice, ShapeTensor, ShapeWeights, Shapes};
use atedm_conformance::tolerance::PUBLISHED_TFLOPS;
use atedm_conformance::trace::{TokenTrace, Tracing};
use atedm_core::at_edm::{AtEdmConfig, Parts, PrunePoint};
use atedm_core::plugin::{
    BlockShape, BuildContext, Grid, NestId, NestSite, Row, Run, Step, StepOf, Tau, TokenReducer, Unpruned,
};
use atedm_core::{DType, Result, Tensor, Weights};
use atedm_sdxl::flops;
use atedm_sdxl::unet::{UNet, UNetConfig, UNetInput};

const STEPS: usize = 50;
const LATENTS: Grid = Grid::new(128, 128);
const TEXT: usize = 77;

/// One evaluation of SD-XL base at `step` of 50: its cost, and the number of tokens in every layer.
fn evaluate<R: TokenReducer<ShapeTensor>>(reducer: R, step: usize) -> (Ledger, TokenTrace) {
    let device = ShapeDevice::default();
    let config = UNetConfig::sdxl_base();
    let unet = UNet::<Shapes>::load(&Weights::new(ShapeWeights(device.clone())), &config).unwrap();
    let of = |shape: &[usize]| ShapeTensor::new(shape, DType::F32, &device);
    let step = Step { index: step, total: STEPS, evaluation: step, sigma: 1.0, timestep: 500.0 };
    let rows = Row::singles(1);
    let mut reducer = Tracing::new(reducer);
    reducer.begin_run(&Run::new(STEPS, 0, &rows)).unwrap();
    reducer.begin_step(&step, &rows).unwrap();
    let input = UNetInput {
        latents: &of(&[1, 4, LATENTS.height, LATENTS.width]),
        timesteps: &[500.0],
        text: &of(&[1, TEXT, config.text_channels()]),
        pooled: &of(&[1, config.pooled_channels()]),
        time_ids: &[[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]],
        timestep_cond: None,
        step: &step,
        rows: &rows,
        control: None,
    };
    let prediction = unet.forward(&input, &mut reducer).unwrap();
    assert_eq!(prediction.shape(), [1, 4, LATENTS.height, LATENTS.width]);
    (device.ledger(), reducer.trace().clone())
}

/// The paper's settings with exactly 5 votes. Without data, no change of scores can be measured.
fn config(preset: &str, prune_point: PrunePoint) -> AtEdmConfig {
    let preset = AtEdmConfig::preset(preset).unwrap();
    AtEdmConfig { prune_point, epsilon: 0.0, levels: preset.levels.resolved(2), ..preset }
}

fn pruned(config: &AtEdmConfig, step: usize) -> (Ledger, TokenTrace) {
    let reducer = config.build::<ShapeTensor>(&BuildContext::default(), &Parts::with_builtins()).unwrap();
    evaluate(reducer, step)
}

/// The cost by formula, from the plan's token counts.
fn by_formula(config: &AtEdmConfig, step: usize) -> u64 {
    let plan = config.plan().unwrap();
    let cost = flops::pruned(&UNetConfig::sdxl_base(), LATENTS, TEXT, None, |block| {
        plan.tokens(&BlockShape::new(block.id, block.depth, block.grid), StepOf { index: step, total: STEPS })
    });
    cost.unwrap().sum().total()
}

#[track_caller]
fn assert_tflop(counted: f64, published: f64, what: &str) {
    assert!(
        (counted - published).abs() < PUBLISHED_TFLOPS,
        "{what}: {counted:.4} T instead of {published} T"
    );
}

#[test]
fn the_full_model_is_the_papers_6_7_t() {
    let (ledger, trace) = evaluate(Unpruned, 0);
    assert_eq!(ledger.parameters, 2_567_463_684);
    assert_eq!(ledger.scoring.macs(), 0);
    let formula = flops::full(&UNetConfig::sdxl_base(), LATENTS, TEXT).unwrap().sum();
    assert_eq!(ledger.model.macs(), formula.total());
    assert_eq!(ledger.model.convolution, formula.convolutions + formula.shortcuts);
    assert_tflop(ledger.model.tflop(), 6.761, "full");
    let blocks = UNetConfig::sdxl_base().blocks(LATENTS.height, LATENTS.width);
    assert_eq!(blocks.iter().map(|block| block.depth).sum::<usize>(), 70);
    for block in blocks {
        let whole = atedm_core::plugin::LayerTokens::whole(block.grid.tokens());
        assert_eq!(trace[&block.id], vec![whole; block.depth], "{}", block.id);
    }
    assert!(ledger.largest_map < 4096 * 4096, "attention itself stores no whole map");
}

/// A preset, a prune point, and the published TFLOPs of an early step, a later one, and their mean.
const PUBLISHED: [(&str, PrunePoint, Option<[f64; 2]>, f64); 4] = [
    ("at-edm", PrunePoint::AfterFf, Some([4.989, 4.065]), 4.342),
    ("at-edm", PrunePoint::BeforeFf, Some([4.811, 3.786]), 4.094),
    ("at-edm-dagger", PrunePoint::AfterFf, None, 4.675),
    ("at-edm-dagger", PrunePoint::BeforeFf, None, 4.538),
];

#[test]
fn at_edm_costs_what_is_published() {
    for (preset, point, steps, mean) in PUBLISHED {
        let config = config(preset, point);
        let what = format!("{preset} {point:?}");
        let early = Tau::default().steps(STEPS);
        assert_eq!(early, 15);
        let each = [early - 1, early].map(|step| {
            let (ledger, trace) = pruned(&config, step);
            assert_eq!(ledger.model.macs(), by_formula(&config, step), "{what}, step {step}");
            let plan = config.plan().unwrap();
            for block in UNetConfig::sdxl_base().blocks(LATENTS.height, LATENTS.width) {
                let planned = plan
                    .tokens(
                        &BlockShape::new(block.id, block.depth, block.grid),
                        StepOf { index: step, total: STEPS },
                    )
                    .unwrap();
                assert_eq!(trace[&block.id], planned, "{what}, step {step}, {}", block.id);
            }
            ledger.model.tflop()
        });
        if let Some(steps) = steps {
            assert_tflop(each[0], steps[0], &format!("{what}, prune-less step"));
            assert_tflop(each[1], steps[1], &format!("{what}, normal step"));
        }
        let share = early as f64 / STEPS as f64;
        assert_tflop(share * each[0] + (1.0 - share) * each[1], mean, &format!("{what}, mean"));
    }
}

/// Tokens of a normal step as numbers: 1516 of 4096 and 379 of 1024 stay.
#[test]
fn token_traces_at_1024_px() {
    for point in [PrunePoint::AfterFf, PrunePoint::BeforeFf] {
        for step in [0, 49] {
            let (_, trace) = pruned(&config("at-edm", point), step);
            assert_eq!(trace.len(), 11);
            for (block, layers) in trace {
                let (all, kept) = if block.level == 1 { (4096, 1516) } else { (1024, 379) };
                let spared = step == 0 && block.is_stage_edge();
                let after = if spared { all } else { kept };
                assert_eq!(layers.len(), if block.level == 1 { 2 } else { 10 });
                let first = &layers[0];
                assert_eq!((first.self_attention, first.cross_attention), (all, all), "{block}");
                let before_ff = point == PrunePoint::BeforeFf;
                assert_eq!(first.feed_forward, if before_ff { after } else { all }, "{block}");
                for layer in &layers[1..] {
                    assert_eq!(*layer, atedm_core::plugin::LayerTokens::whole(after), "{block}");
                }
            }
        }
    }
}

/// Five votes on ten heads of 4096 x 4096 are ten passes over `q kᵀ`. No map is ever stored.
#[test]
fn scoring_is_streamed_and_counted_apart() {
    let config = config("at-edm", PrunePoint::AfterFf);
    let (ledger, _) = pruned(&config, 49);
    assert!(ledger.largest_map < 4096 * 4096, "{} elements of one map at once", ledger.largest_map);
    // For each block: 5 votes of (d + 1) h n², and d h kept pruned for the similarity copy.
    let block = |heads: u64, n: u64, kept: u64| heads * (5 * 65 * n * n + 64 * kept * (n - kept));
    let expected = 5 * block(10, 4096, 1516) + 6 * block(20, 1024, 379);
    assert_eq!(ledger.scoring.macs(), expected);
    let share = ledger.scoring.tflop() / ledger.model.tflop();
    println!("scoring: {:.3} T, {:.1} % of the model's", ledger.scoring.tflop(), 100.0 * share);
    let free = AtEdmConfig { scorer: "token-norm".into(), recovery: "zero".into(), ..config };
    assert_eq!(pruned(&free, 49).0.scoring.macs(), 0, "neither scorer nor recovery multiply matrices");
}

/// Gives an output of one nest, and of nothing else.
struct Without {
    nest: NestId,
    shape: [usize; 4],
}

impl TokenReducer<ShapeTensor> for Without {
    // on the device of the run, whose ledger counts what follows
    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &ShapeTensor) -> Result<Option<ShapeTensor>> {
        let output = || ShapeTensor::new(&self.shape, DType::F32, &hidden.device());
        Ok((site.nest == self.nest).then(output))
    }
}

/// Every nest of the real U-Net: an output of the listed shape takes its place, what lies outside still runs and
/// multiplies as the formula says, and just the listed blocks do not run.
#[test]
fn without_a_nest_the_rest_runs() {
    let config = UNetConfig::sdxl_base();
    let blocks = config.blocks(LATENTS.height, LATENTS.width);
    let nests = config.nests(LATENTS.height, LATENTS.width);
    assert_eq!(nests.len(), 10);
    for nest in nests {
        let shape = [1, nest.channels, nest.grid.height, nest.grid.width];
        let (ledger, trace) = evaluate(Without { nest: nest.id, shape }, 0);
        let whole = |block: &atedm_sdxl::config::BlockInfo| {
            Ok(vec![atedm_core::plugin::LayerTokens::whole(block.grid.tokens()); block.depth])
        };
        let cost = flops::pruned(&config, LATENTS, TEXT, Some(nest.id), whole).unwrap().sum();
        assert_eq!(ledger.model.macs(), cost.total(), "without {}", nest.id);
        for (i, block) in blocks.iter().enumerate() {
            assert_eq!(
                trace.contains_key(&block.id),
                !nest.blocks.contains(&i),
                "without {}: {}",
                nest.id,
                block.id
            );
        }
    }
}
