//! Compares the whole method in a toy transformer with the same method in plain loops.

use atedm_core::at_edm::{AtEdm, AtEdmConfig, Parts, PrunePoint, ScoreSource};
use atedm_core::plugin::{
    Action, BlockShape, BuildContext, Event, Grid, Levels, Run, Site, Stage, StepOf, Sublayer, Tau,
    TokenReducer, Unpruned,
};
use atedm_core::reference::NdTensor;
use atedm_core::{Error, GraphRequest, Result};

use crate::support::{Matrix, Random, assert_close, batch, block, matrices, single, step, values};
use crate::toy::{Asked, CHANNELS, TEXT, Toy};

pub(crate) const GRID: Grid = Grid::new(4, 5);

pub(crate) struct Inputs {
    pub(crate) hidden: Vec<Matrix>,
    pub(crate) text: Vec<Matrix>,
}

impl Inputs {
    pub(crate) fn new(seed: u64, rows: usize) -> Self {
        let mut random = Random(seed);
        let hidden = (0..rows).map(|_| random.matrix(GRID.tokens(), CHANNELS, 1.0)).collect();
        Self { hidden, text: (0..rows).map(|_| random.matrix(TEXT, CHANNELS, 1.0)).collect() }
    }
}

pub(crate) fn config() -> AtEdmConfig {
    AtEdmConfig { schedule: "constant".into(), ..AtEdmConfig::default() }
}

pub(crate) fn build(config: &AtEdmConfig) -> AtEdm<NdTensor> {
    config.build(&BuildContext::default(), &Parts::with_builtins()).unwrap()
}

pub(crate) fn run(
    toy: &Toy,
    reducer: &mut dyn TokenReducer<NdTensor>,
    inputs: &Inputs,
) -> Result<(NdTensor, Vec<Asked>)> {
    let rows = single(inputs.hidden.len() as u64);
    toy.run(reducer, &step(0, 1), &rows, batch(&inputs.hidden), &batch(&inputs.text))
}

#[test]
fn the_method_agrees_with_the_oracle() {
    let inputs = Inputs::new(31, 2);
    let mut tried = 0;
    for prune_point in [PrunePoint::AfterFf, PrunePoint::BeforeFf] {
        for score in [ScoreSource::SelfAttention, ScoreSource::CrossAttention] {
            for recovery in ["similarity", "direct", "zero"] {
                for prune_layers in [vec![0], vec![1], vec![0, 1], vec![0, 1, 2, 3]] {
                    let toy = Toy::new(30, 4, GRID);
                    let config = AtEdmConfig {
                        prune_point,
                        score,
                        recovery: recovery.into(),
                        prune_layers,
                        ratio: 0.4,
                        ..config()
                    };
                    let (got, _) = run(&toy, &mut build(&config), &inputs).unwrap();
                    for (got, (hidden, text)) in
                        matrices(&got).iter().zip(inputs.hidden.iter().zip(&inputs.text))
                    {
                        let expected = toy.oracle(&config, hidden, text);
                        assert_close(&got.concat(), &expected.data, 1e-9);
                    }
                    let (whole, _) = run(&toy, &mut Unpruned, &inputs).unwrap();
                    assert!(values(&got) != values(&whole), "pruning must change something");
                    tried += 1;
                }
            }
        }
    }
    assert_eq!(tried, 48);
}

/// Ratio 0, depth 1, a spared level, and an early step at a stage's edge: the result is bit-identical, and no graph
/// is requested.
#[test]
fn what_is_not_pruned_is_the_identity() {
    let inputs = Inputs::new(33, 1);
    let deep = Toy::new(32, 3, GRID);
    let shallow = Toy::new(32, 1, GRID);
    let edge = Toy { block: block(Stage::Down, 0, 0, 2, 0), ..Toy::new(32, 3, GRID) };
    let early = AtEdmConfig { tau: Tau::Steps(1), ..AtEdmConfig::default() };
    let cases = [
        (&deep, AtEdmConfig { ratio: 0.0, ..config() }),
        (&deep, AtEdmConfig { ratio: 0.049, ..config() }),
        (&deep, AtEdmConfig { keep_multiple: 64, ..config() }),
        (&deep, AtEdmConfig { levels: Levels::List(vec![1, 2]), ..config() }),
        (&deep, AtEdmConfig { prune_layers: vec![2, 7], ..config() }),
        (&shallow, config()),
        (&shallow, AtEdmConfig { prune_point: PrunePoint::BeforeFf, ..config() }),
        (&edge, early),
    ];
    for (toy, config) in cases {
        let (got, asked) = run(toy, &mut build(&config), &inputs).unwrap();
        let (whole, _) = run(toy, &mut Unpruned, &inputs).unwrap();
        assert_eq!(values(&got), values(&whole), "{config:?}");
        assert!(asked.iter().all(|&a| a == Asked::Nothing), "{config:?}");
    }
}

/// The first evaluation requests only the graph, and later ones also its first vote. The result is the same.
#[test]
fn the_forward_pass_votes_once_the_heads_are_known() {
    let (toy, inputs) = (Toy::new(34, 3, GRID), Inputs::new(35, 2));
    let mut method = build(&config());
    let (first, asked_first) = run(&toy, &mut method, &inputs).unwrap();
    let (second, asked_second) = run(&toy, &mut method, &inputs).unwrap();
    use Asked::{FirstVote, Graph, Nothing};
    assert_eq!(asked_first, [Graph, Nothing, Nothing, Nothing, Nothing, Nothing]);
    assert_eq!(asked_second, [FirstVote, Nothing, Nothing, Nothing, Nothing, Nothing]);
    assert_close(&values(&second), &values(&first), 1e-10);
    let rows = single(2);
    method.begin_run(&Run::new(1, 0, &rows)).unwrap();
    let (_, asked_again) = run(&toy, &mut method, &inputs).unwrap();
    assert_eq!(asked_again, asked_first);
}

#[test]
fn only_what_is_used_is_asked_for() {
    let (toy, inputs) = (Toy::new(36, 2, GRID), Inputs::new(37, 1));
    let asked = |scorer: &str, score: ScoreSource, recovery: &str| {
        let config = AtEdmConfig { scorer: scorer.into(), score, recovery: recovery.into(), ..config() };
        let (_, asked) = run(&toy, &mut build(&config), &inputs).unwrap();
        asked[..2].to_vec()
    };
    use Asked::{Graph, Nothing};
    use ScoreSource::{CrossAttention, SelfAttention};
    assert_eq!(asked("page-rank", SelfAttention, "zero"), [Graph, Nothing]);
    assert_eq!(asked("page-rank", CrossAttention, "similarity"), [Graph, Graph]);
    assert_eq!(asked("page-rank", CrossAttention, "zero"), [Nothing, Graph]);
    assert_eq!(asked("token-norm", SelfAttention, "similarity"), [Graph, Nothing]);
    assert_eq!(asked("value-norm", SelfAttention, "direct"), [Nothing, Nothing]);
    assert_eq!(asked("random", SelfAttention, "zero"), [Nothing, Nothing]);
}

#[test]
fn before_ff_without_cross_attention_is_an_error() {
    let toy = Toy { with_cross: false, ..Toy::new(38, 2, GRID) };
    let config = AtEdmConfig { prune_point: PrunePoint::BeforeFf, ..config() };
    let error = run(&toy, &mut build(&config), &Inputs::new(39, 1)).unwrap_err().to_string();
    assert!(error.starts_with("prune_point: "), "{error}");
    let cross = AtEdmConfig { score: ScoreSource::CrossAttention, ..self::config() };
    let error = run(&toy, &mut build(&cross), &Inputs::new(39, 1)).unwrap_err().to_string();
    assert!(error.contains("attention graph"), "{error}");
}

#[test]
fn nan_scores_are_an_error() {
    let mut inputs = Inputs::new(41, 1);
    inputs.hidden[0][3][2] = f64::NAN;
    let result = run(&Toy::new(40, 2, GRID), &mut build(&config()), &inputs);
    assert!(matches!(result, Err(Error::NotFinite { .. })), "{result:?}");
}

#[test]
fn tau_above_the_steps_is_an_error_when_a_run_begins() {
    let mut method = build(&AtEdmConfig { tau: Tau::Steps(11), ..AtEdmConfig::default() });
    let rows = single(1);
    let mut begin = |steps| method.begin_run(&Run::new(steps, 0, &rows));
    assert!(begin(11).is_ok());
    let error = begin(10).unwrap_err().to_string();
    assert!(error.starts_with("tau: ") && error.contains("10"), "{error}");
}

/// The token counts of the plan equal those of the run.
#[test]
fn the_plan_and_the_method_agree_on_counts() {
    struct Counting {
        inner: AtEdm<NdTensor>,
        seen: Vec<usize>,
    }
    impl TokenReducer<NdTensor> for Counting {
        fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<NdTensor>> {
            self.inner.wants(site, sub)
        }
        fn on_event(&mut self, site: &Site<'_>, event: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
            if let Event::Before { .. } = event {
                self.seen.push(site.tokens);
            }
            self.inner.on_event(site, event)
        }
    }
    let toy = Toy::new(42, 4, GRID);
    for prune_point in [PrunePoint::AfterFf, PrunePoint::BeforeFf] {
        for (ratio, keep_multiple) in [(0.0, 1), (0.3, 1), (0.63, 1), (0.63, 8), (0.9, 2)] {
            let config =
                AtEdmConfig { prune_point, ratio, keep_multiple, prune_layers: vec![0, 2], ..config() };
            let mut counting = Counting { inner: build(&config), seen: Vec::new() };
            run(&toy, &mut counting, &Inputs::new(43, 1)).unwrap();
            let shape = BlockShape::new(toy.block, 4, GRID);
            let planned = config.plan().unwrap().tokens(&shape, StepOf { index: 0, total: 1 }).unwrap();
            let planned: Vec<usize> =
                planned.iter().flat_map(|l| [l.self_attention, l.cross_attention, l.feed_forward]).collect();
            assert_eq!(counting.seen, planned, "{config:?}");
        }
    }
}
