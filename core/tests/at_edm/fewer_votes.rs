//! Warm starts, caps by level, and kept sets that serve several evaluations.

use std::sync::Arc;

use atedm_core::at_edm::scoring::{PageRank, PageRankOptions, WarmPageRank};
use atedm_core::at_edm::{
    AtEdmConfig, RecoveryInput, ScoreInput, ScoreSource, Tau, TokenRecovery, TokenScorer,
    recovery::ZeroPadding,
    schedule::{ScheduleEntry, ScheduleTable},
};
use atedm_core::backend::AttentionGraph;
use atedm_core::plugin::{
    Action, BuildContext, Event, Grid, GuidanceMasks, MaskEntry, MaskRecorder, MaskSet, PruneObserver,
    PruneRecord, Reduction, Registry, Row, Run, Site, Stage, Step, Sublayer, TokenReducer, Wants,
};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{Indices, Result};

use crate::method::{GRID, Inputs, config};
use crate::support::{Matrix, Random, batch, block, matrices, single, site, step, tensor, values};
use crate::toy::{Asked, Toy};

use Asked::{Graph, Nothing, Voted};

/// What one step of a run gave.
struct Seen {
    output: Vec<Matrix>,
    masks: MaskSet,
    /// What the first layer's self-attention was asked for.
    asked: Asked,
}

impl Seen {
    fn entry(&self) -> &MaskEntry {
        self.masks.iter().next().unwrap().1
    }
}

/// A method that is watched, and called step by step.
struct Watched {
    method: Box<dyn TokenReducer<NdTensor>>,
    recorder: Arc<std::sync::Mutex<MaskRecorder>>,
}

impl Watched {
    fn new(config: &AtEdmConfig) -> Self {
        Self::with(config, &Registry::with_builtins(), None)
    }

    fn with(config: &AtEdmConfig, registry: &Registry<NdTensor>, replay: Option<MaskSet>) -> Self {
        let recorder = MaskRecorder::shared();
        let observer = Some(recorder.clone() as _);
        let context = BuildContext { observer, replay: replay.map(Arc::new), ..BuildContext::default() };
        Self { method: Box::new(config.build(&context, registry).unwrap()), recorder }
    }

    /// The same without votes in the forward pass.
    fn lazily(config: &AtEdmConfig) -> Self {
        let Self { method, recorder } = Self::new(config);
        Self { method: Box::new(Lazily(method)), recorder }
    }

    fn step(&mut self, toy: &Toy, step: &Step, rows: &[Row], inputs: &Inputs) -> Seen {
        let (hidden, text) = (batch(&inputs.hidden), batch(&inputs.text));
        let (output, asked) = toy.run(self.method.as_mut(), step, rows, hidden, &text).unwrap();
        let masks = self.recorder.lock().unwrap().take();
        Seen { output: matrices(&output), masks, asked: asked[0] }
    }

    fn steps(&mut self, toy: &Toy, inputs: &[&Inputs]) -> Vec<Seen> {
        let rows = single(inputs[0].hidden.len() as u64);
        let total = inputs.len();
        (0..total).map(|i| self.step(toy, &step(i, total), &rows, inputs[i])).collect()
    }
}

/// Passes everything on, but asks for graphs without a vote.
struct Lazily(Box<dyn TokenReducer<NdTensor>>);

impl TokenReducer<NdTensor> for Lazily {
    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<Wants<NdTensor>> {
        Ok(match self.0.wants(site, sub)? {
            Wants::Voted(_) => Wants::Graph,
            other => other,
        })
    }
    fn at(&mut self, site: &Site<'_>, event: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
        self.0.at(site, event)
    }
}

fn warm() -> AtEdmConfig {
    AtEdmConfig { warm_start: true, max_iterations: 1, epsilon: 0.0, ..config() }
}

fn cold(votes: usize) -> AtEdmConfig {
    AtEdmConfig { max_iterations: votes, epsilon: 0.0, ..config() }
}

fn rescored(every: usize) -> AtEdmConfig {
    AtEdmConfig { rescore_every: every, ..config() }
}

/// Row `row` of some inputs.
fn alone(inputs: &Inputs, row: usize) -> Inputs {
    Inputs { hidden: vec![inputs.hidden[row].clone()], text: vec![inputs.text[row].clone()] }
}

fn image(image: u64) -> Row {
    single(image + 1)[image as usize]
}

#[test]
fn warm_votes_add_up_over_the_steps() {
    let (toy, inputs) = (Toy::new(80, 2, GRID), Inputs::new(81, 2));
    for score in [ScoreSource::SelfAttention, ScoreSource::CrossAttention] {
        let warm = Watched::new(&AtEdmConfig { score, ..warm() }).steps(&toy, &[&inputs; 6]);
        for (votes, warm) in (1..).zip(&warm) {
            let cold = Watched::new(&AtEdmConfig { score, ..cold(votes) }).steps(&toy, &[&inputs]);
            assert_eq!(warm.entry().scores, cold[0].entry().scores, "{votes} votes");
            assert_eq!(warm.output, cold[0].output);
            assert_eq!(warm.entry().votes, 1);
        }
        assert_ne!(warm[0].entry().scores, warm[1].entry().scores);
    }
}

/// The forward pass is asked to vote with the warm scores, and its vote counts.
#[test]
fn the_forward_pass_casts_the_warm_vote() {
    let toy = Toy::new(82, 2, GRID);
    let inputs: Vec<Inputs> = (0..4).map(|i| Inputs::new(83 + i, 2)).collect();
    let inputs: Vec<&Inputs> = inputs.iter().collect();
    for config in [warm(), AtEdmConfig { max_iterations: 2, ..warm() }] {
        let voted = Watched::new(&config).steps(&toy, &inputs);
        let lazy = Watched::lazily(&config).steps(&toy, &inputs);
        for (i, (voted, lazy)) in voted.iter().zip(&lazy).enumerate() {
            assert_eq!(lazy.asked, Graph);
            assert_eq!(voted.asked, if i == 0 { Graph } else { Voted });
            assert_eq!(voted.entry().scores, lazy.entry().scores, "step {i}");
            assert_eq!(voted.output, lazy.output);
        }
    }
}

/// A site's first evaluation may cast more votes than those that go on from it.
#[test]
fn the_first_evaluation_has_a_cap_of_its_own() {
    let (toy, inputs) = (Toy::new(97, 2, GRID), Inputs::new(98, 1));
    let config = AtEdmConfig { cold_iterations: Some(4), level_iterations: [(0, 2)].into(), ..warm() };
    let warm = Watched::new(&config).steps(&toy, &[&inputs; 3]);
    for (warm, (votes, total)) in warm.iter().zip([(4, 4), (2, 6), (2, 8)]) {
        let cold = Watched::new(&cold(total)).steps(&toy, &[&inputs]);
        assert_eq!(warm.entry().scores, cold[0].entry().scores);
        assert_eq!(warm.entry().votes, votes);
    }
    // Without a warm start there is no such thing.
    let config = AtEdmConfig { warm_start: false, ..config };
    assert_eq!(Watched::new(&config).steps(&toy, &[&inputs])[0].entry().votes, 2);
}

/// What an observer is shown holds no vote, whatever the method asked for.
#[test]
fn observers_see_graphs_without_the_methods_vote() {
    struct Shown(usize);
    impl PruneObserver<NdTensor> for Shown {
        fn pruned(&mut self, _: &Site<'_>, _: &PruneRecord<'_, NdTensor>) -> Result<()> {
            Ok(())
        }
        fn wants_graph(&self, _: &Site<'_>, sub: Sublayer) -> bool {
            sub == Sublayer::SelfAttention
        }
        fn graph(&mut self, _: &Site<'_>, _: Sublayer, graph: &AttentionGraph<NdTensor>) -> Result<()> {
            assert!(graph.first_vote().is_none());
            self.0 += 1;
            Ok(())
        }
    }
    let shown = Arc::new(std::sync::Mutex::new(Shown(0)));
    let context = BuildContext { observer: Some(shown.clone() as _), ..BuildContext::default() };
    let mut method = warm().build(&context, &Registry::with_builtins()).unwrap();
    let (toy, inputs) = (Toy::new(97, 2, GRID), Inputs::new(98, 1));
    for i in 0..2 {
        let (hidden, text) = (batch(&inputs.hidden), batch(&inputs.text));
        let (_, asked) = toy.run(&mut method, &step(i, 2), &single(1), hidden, &text).unwrap();
        assert_eq!(asked[0], if i == 0 { Graph } else { Voted });
    }
    assert_eq!(shown.lock().unwrap().0, 4);
}

#[test]
fn warm_scores_follow_their_rows() {
    let toy = Toy::new(84, 2, GRID);
    let steps: Vec<Inputs> = (0..4).map(|i| Inputs::new(85 + i, 2)).collect();
    let expected: Vec<Vec<Seen>> = (0..2)
        .map(|row| {
            let mut method = Watched::new(&warm());
            let inputs: Vec<Inputs> = steps.iter().map(|inputs| alone(inputs, row)).collect();
            (0..4).map(|i| method.step(&toy, &step(i, 4), &[image(row as u64)], &inputs[i])).collect()
        })
        .collect();
    let same = |i: usize, row: usize, seen: &Seen, at: usize| {
        assert_eq!(seen.entry().scores[at], expected[row][i].entry().scores[0], "step {i}, image {row}");
    };
    let mut method = Watched::new(&warm());
    let seen = method.step(&toy, &step(0, 4), &single(2), &steps[0]);
    same(0, 0, &seen, 0);
    same(0, 1, &seen, 1);
    // In another order.
    let swapped = Inputs {
        hidden: steps[1].hidden.iter().rev().cloned().collect(),
        text: steps[1].text.iter().rev().cloned().collect(),
    };
    let seen = method.step(&toy, &step(1, 4), &[image(1), image(0)], &swapped);
    assert_eq!(seen.asked, Voted);
    same(1, 1, &seen, 0);
    same(1, 0, &seen, 1);
    // One after the other.
    for row in 0..2 {
        let seen = method.step(&toy, &step(2, 4), &[image(row as u64)], &alone(&steps[2], row));
        same(2, row, &seen, 0);
    }
    // Together with an image that starts only now.
    let newcomer = Inputs::new(99, 1);
    let joined = Inputs {
        hidden: [newcomer.hidden.clone(), steps[3].hidden[1..].to_vec()].concat(),
        text: [newcomer.text.clone(), steps[3].text[1..].to_vec()].concat(),
    };
    let seen = method.step(&toy, &step(3, 4), &[image(7), image(1)], &joined);
    same(3, 1, &seen, 1);
    let fresh = Watched::new(&warm()).step(&toy, &step(3, 4), &[image(7)], &newcomer);
    assert_eq!(seen.entry().scores[0], fresh.entry().scores[0]);
}

#[test]
fn a_new_run_starts_cold() {
    let (toy, inputs) = (Toy::new(86, 2, GRID), Inputs::new(87, 1));
    let mut method = Watched::new(&AtEdmConfig { rescore_every: 9, ..warm() });
    let first = method.steps(&toy, &[&inputs]);
    let rows = single(1);
    method.method.begin_image(&Run { steps: 1, seed: 0, rows: &rows }).unwrap();
    let other = Inputs::new(88, 1);
    let again = method.steps(&toy, &[&other]);
    assert_eq!(again[0].asked, Graph);
    let expected = Watched::new(&warm()).steps(&toy, &[&other]);
    assert_eq!(again[0].entry(), expected[0].entry());
    assert_ne!(again[0].entry(), first[0].entry());
}

/// A streamed graph of `rows x heads` maps of `n` tokens.
fn graph(seed: u64, rows: usize, heads: usize, n: usize) -> AttentionGraph<NdTensor> {
    let mut random = Random(seed);
    let mut draw = || tensor(&random.numbers(rows * heads * n * 4), &[rows, heads, n, 4]);
    AttentionGraph::from_qk(&draw(), &draw(), 2.0).unwrap()
}

fn one_vote() -> PageRank {
    PageRank::new(PageRankOptions { max_iterations: 1, epsilon: 0.0, ..PageRankOptions::default() }).unwrap()
}

/// Scores `[b, tokens]` of the first layer's stream, or of a later one at `positions` of `entry_tokens`.
fn score(
    scorer: &mut WarmPageRank<NdTensor>,
    graph: &AttentionGraph<NdTensor>,
    rows: &[Row],
    positions: Option<(&[Vec<u32>], usize)>,
) -> Result<Vec<f64>> {
    let [batch, _, tokens, _] = graph.dims()?;
    let hidden = tensor(&vec![0.0; batch * tokens], &[batch, tokens, 1]);
    let site = Site { tokens, ..site(Grid { height: 1, width: tokens }, rows) };
    let at = positions.map(|(rows, _)| Indices::from_host(rows, &NdDevice)).transpose()?;
    let input = ScoreInput {
        site: &site,
        hidden: &hidden,
        graph: Some(graph),
        values: None,
        entry_tokens: positions.map_or(tokens, |(_, entry)| entry),
        positions: at.as_ref(),
        seed: 0,
    };
    Ok(values(&scorer.score(&input)?.tokens))
}

#[test]
fn other_counts_of_tokens_or_heads_start_cold() {
    let rows = single(2);
    let mut scorer = WarmPageRank::new(one_vote());
    for (seed, heads, n) in [(1, 2, 6), (2, 2, 8), (3, 3, 8)] {
        let graph = graph(seed, 2, heads, n);
        let fresh = score(&mut WarmPageRank::new(one_vote()), &graph, &rows, None).unwrap();
        assert_eq!(score(&mut scorer, &graph, &rows, None).unwrap(), fresh);
        assert_ne!(score(&mut scorer, &graph, &rows, None).unwrap(), fresh);
    }
    let error = score(&mut scorer, &graph(4, 2, 1, 6), &single(3), None).unwrap_err().to_string();
    assert!(error.contains("warm_start expects 2 batch rows"), "{error}");
}

/// After an earlier pruning layer each token goes on from its own score, wherever it now stands.
#[test]
fn warm_scores_follow_tokens_through_an_earlier_layer() {
    let rows = single(1);
    let graph = graph(5, 1, 1, 4);
    let at = [vec![1, 3, 4, 7]];
    let mut scorer = WarmPageRank::new(one_vote());
    let first = score(&mut scorer, &graph, &rows, Some((&at, 9))).unwrap();
    let vote = |start: &[f64]| {
        let (scores, _) = one_vote().per_head(&graph, Some(&tensor(start, &[1, 1, 4]))).unwrap();
        values(&scores)
    };
    // 4 is gone and 6 is new: it starts from the mean, 1/4.
    let second = score(&mut scorer, &graph, &rows, Some((&[vec![1, 3, 6, 7]], 9))).unwrap();
    for (got, expected) in second.iter().zip(vote(&[first[0], first[1], 0.25, first[3]])) {
        assert!((got - expected).abs() < 1e-12, "{got} against {expected}");
    }
    let third = score(&mut scorer, &graph, &rows, Some((&[vec![1, 3, 6, 7]], 9))).unwrap();
    for (got, expected) in third.iter().zip(vote(&second)) {
        assert!((got - expected).abs() < 1e-12, "{got} against {expected}");
    }
}

#[test]
fn levels_have_caps_of_their_own() {
    let inputs = Inputs::new(89, 1);
    for warm_start in [false, true] {
        for (level, votes) in [(0, 4), (1, 2), (2, 7)] {
            let toy = Toy { block: block(Stage::Mid, 0, 0, 1, level), ..Toy::new(90, 2, GRID) };
            let capped = AtEdmConfig { level_iterations: [(1, 2), (2, 7)].into(), warm_start, ..cold(4) };
            let got = Watched::new(&capped).steps(&toy, &[&inputs]);
            let expected = Watched::new(&cold(votes)).steps(&toy, &[&inputs]);
            assert_eq!(got[0].entry(), expected[0].entry(), "level {level}");
            assert_eq!(got[0].entry().votes, votes);
        }
    }
}

/// Between scorings nothing is asked of the attention, and sets and donors stay while the values change.
#[test]
fn a_kept_set_serves_n_evaluations() {
    let toy = Toy::new(91, 2, GRID);
    let steps: Vec<Inputs> = (0..7).map(|i| Inputs::new(100 + i, 2)).collect();
    let inputs: Vec<&Inputs> = steps.iter().collect();
    let seen = Watched::new(&rescored(3)).steps(&toy, &inputs);
    let asked: Vec<Asked> = seen.iter().map(|seen| seen.asked).collect();
    assert_eq!(asked, [Graph, Nothing, Nothing, Voted, Nothing, Nothing, Voted]);
    for (i, seen_now) in seen.iter().enumerate() {
        let origin = &seen[i / 3 * 3];
        let (now, then) = (seen_now.entry(), origin.entry());
        assert_eq!(now.kept, then.kept);
        assert_eq!((now.scores.is_empty(), now.votes == 0), (i % 3 != 0, i % 3 != 0));
        let fresh = Watched::new(&config()).steps(&toy, &inputs[i..i + 1]);
        if i % 3 == 0 {
            assert_eq!(now.kept, fresh[0].entry().kept);
        } else {
            assert_ne!(now.kept, fresh[0].entry().kept, "the test's inputs must differ");
        }
        // At the exit a pruned token equals its donor, and the donor is the one of the scoring step.
        for row in 0..2 {
            let kept: Vec<usize> = then.kept[row].iter().map(|&token| token as usize).collect();
            for pruned in (0..GRID.tokens()).filter(|token| !kept.contains(token)) {
                let copies = |seen: &Seen, donor: usize| seen.output[row][pruned] == seen.output[row][donor];
                let donor = kept.iter().find(|&&donor| copies(origin, donor)).unwrap();
                assert!(copies(seen_now, *donor), "step {i}, row {row}, token {pruned}");
            }
        }
    }
    let other = |every: usize| Watched::new(&rescored(every)).steps(&toy, &inputs);
    let always: Vec<Vec<Vec<u32>>> = other(1).iter().map(|seen| seen.entry().kept.clone()).collect();
    let default = Watched::new(&config()).steps(&toy, &inputs);
    assert_eq!(always, default.iter().map(|seen| seen.entry().kept.clone()).collect::<Vec<_>>());
}

/// What the first layer is asked for by a method after these (step, rows) of one toy.
fn asked_over(config: &AtEdmConfig, toy: &Toy, calls: &[(Step, Vec<Row>)]) -> Vec<Asked> {
    let mut method = Watched::new(config);
    let see = |(step, rows): &(Step, Vec<Row>)| {
        method.step(toy, step, rows, &Inputs::new(110 + step.index as u64, rows.len())).asked
    };
    calls.iter().map(see).collect()
}

#[test]
fn a_set_that_does_not_fit_is_scored_anew() {
    let toy = Toy::new(92, 2, GRID);
    let pair = || single(2);
    let at = |indices: &[usize]| -> Vec<(Step, Vec<Row>)> {
        indices.iter().map(|&index| (step(index, 50), pair())).collect()
    };
    // Too old after a pause, and a run that starts over.
    assert_eq!(
        asked_over(&rescored(3), &toy, &at(&[0, 1, 4, 5, 0])),
        [Graph, Nothing, Voted, Nothing, Voted]
    );
    // The same evaluation over and over: each set serves three times.
    assert_eq!(asked_over(&rescored(3), &toy, &at(&[5; 4])), [Graph, Nothing, Nothing, Voted]);
    // Another count.
    let falling =
        ScheduleEntry { steps: [Tau::Steps(0), Tau::Steps(2)], blocks: vec!["*".into()], ratio: 0.3 };
    let table = AtEdmConfig {
        schedule: "table".into(),
        table: Some(ScheduleTable { entries: vec![falling] }),
        ..rescored(9)
    };
    assert_eq!(asked_over(&table, &toy, &at(&[0, 1, 2, 3])), [Graph, Nothing, Voted, Nothing]);
    // Blocks that the schedule spares first.
    let edge = Toy { block: block(Stage::Down, 0, 0, 2, 0), ..Toy::new(92, 2, GRID) };
    let early = AtEdmConfig { tau: Tau::Steps(2), rescore_every: 2, ..AtEdmConfig::default() };
    assert_eq!(asked_over(&early, &edge, &at(&[0, 1, 2, 3, 4])), [Nothing, Nothing, Graph, Nothing, Voted]);
    // Other rows, or the same in another order; two batches that take turns each have their own.
    let turns = |calls: &[(usize, &[u64])]| -> Vec<(Step, Vec<Row>)> {
        let rows = |images: &[u64]| images.iter().map(|&i| image(i)).collect();
        calls.iter().map(|&(index, images)| (step(index, 50), rows(images))).collect()
    };
    let calls = turns(&[(0, &[0, 1]), (1, &[1, 0]), (2, &[1, 0]), (3, &[1]), (4, &[1])]);
    assert_eq!(asked_over(&rescored(9), &toy, &calls), [Graph, Voted, Nothing, Voted, Nothing]);
    let calls = turns(&[(0, &[0]), (0, &[1]), (1, &[0]), (1, &[1]), (2, &[0]), (2, &[1])]);
    assert_eq!(asked_over(&rescored(2), &toy, &calls), [Graph, Voted, Nothing, Nothing, Voted, Voted]);
    // Other protected tokens.
    let mut method = Watched::new(&rescored(9));
    let mut protected = |index: usize, protected: (usize, usize)| {
        let toy = Toy { protected, ..Toy::new(92, 2, GRID) };
        method.step(&toy, &step(index, 9), &single(1), &Inputs::new(111, 1))
    };
    assert_eq!(protected(0, (2, 5)).asked, Graph);
    let seen = protected(1, (2, 5));
    assert_eq!(seen.asked, Nothing);
    assert!((2..5).all(|token| seen.entry().kept[0].contains(&token)));
    let seen = protected(2, (12, 15));
    assert_eq!(seen.asked, Voted);
    assert!((12..15).all(|token| seen.entry().kept[0].contains(&token)));
}

/// A later pruning layer's set is worth nothing once an earlier layer keeps other tokens.
#[test]
fn later_layers_score_when_an_earlier_one_does() {
    let toy = Toy { protected: (0, 3), ..Toy::new(93, 4, GRID) };
    let config = AtEdmConfig { prune_layers: vec![0, 2], ratio: 0.4, ..rescored(3) };
    let steps: Vec<Inputs> = (0..5).map(|i| Inputs::new(120 + i, 1)).collect();
    let inputs: Vec<&Inputs> = steps.iter().collect();
    let seen = Watched::new(&config).steps(&toy, &inputs);
    for (i, seen_now) in seen.iter().enumerate() {
        for (key, entry) in seen_now.masks.iter() {
            assert_eq!(entry.scores.is_empty(), i % 3 != 0, "{key}");
            assert_eq!(
                entry.kept_on_grid(),
                seen[i / 3 * 3].masks.iter().find(|(k, _)| k.layer == key.layer).unwrap().1.kept_on_grid()
            );
        }
    }
}

#[test]
fn a_recording_with_reused_sets_replays_to_the_same_result() {
    let toy = Toy::new(94, 4, GRID);
    let steps: Vec<Inputs> = (0..5).map(|i| Inputs::new(130 + i, 2)).collect();
    let inputs: Vec<&Inputs> = steps.iter().collect();
    for recovery in ["similarity", "direct", "zero", "bicubic"] {
        for prune_layers in [vec![0], vec![0, 1]] {
            let config = AtEdmConfig { recovery: recovery.into(), prune_layers, ratio: 0.4, ..rescored(2) };
            let recorded = Watched::new(&config).steps(&toy, &inputs);
            let whole = |seen: &[Seen]| -> MaskSet {
                let entries = seen.iter().flat_map(|seen| seen.masks.iter());
                entries.map(|(key, entry)| (key.clone(), entry.clone())).collect()
            };
            let masks = whole(&recorded);
            let replayed =
                Watched::with(&config, &Registry::with_builtins(), Some(masks.clone())).steps(&toy, &inputs);
            for (i, (replayed, recorded)) in replayed.iter().zip(&recorded).enumerate() {
                assert_eq!(replayed.output, recorded.output, "{recovery}, step {i}");
                assert_eq!(replayed.entry().kept, recorded.entry().kept);
                let graph = recovery == "similarity" && i % 2 == 0;
                assert_eq!(replayed.asked, if graph { Graph } else { Nothing });
            }
            // A set that was edited is taken as it is, with what its own graph says.
            let change = |(key, entry): (&atedm_core::plugin::MaskKey, &MaskEntry)| {
                let mut entry = entry.clone();
                if key.step == 1 && key.layer == 0 {
                    let free =
                        (0..GRID.tokens() as u32).find(|token| !entry.kept[0].contains(token)).unwrap();
                    entry.kept[0][0] = free;
                    entry.kept[0].sort_unstable();
                }
                (key.clone(), entry)
            };
            let edited: MaskSet = masks.iter().map(change).collect();
            let replay = |config: &AtEdmConfig| {
                Watched::with(config, &Registry::with_builtins(), Some(edited.clone()))
                    .steps(&toy, &inputs[..2])
            };
            let got = replay(&config);
            let expected = edited.iter().find(|(key, _)| key.step == 1).unwrap().1;
            assert_eq!(got[1].entry().kept, expected.kept);
            // Later layers as well: what they reused would belong to other tokens.
            assert_eq!(got[1].output, replay(&AtEdmConfig { rescore_every: 1, ..config.clone() })[1].output);
            assert_eq!(got[1].asked == Graph, recovery == "similarity");
        }
    }
}

#[test]
fn halves_of_guidance_share_what_serves() {
    use atedm_core::plugin::Branch::{Cond, Uncond};
    let toy = Toy::new(95, 2, GRID);
    let rows = [Uncond, Cond].map(|branch| Row { image: 0, branch });
    for guidance in [GuidanceMasks::Cond, GuidanceMasks::Mean] {
        let config = AtEdmConfig { guidance, rescore_every: 2, ..warm() };
        let mut method = Watched::new(&config);
        for i in 0..4 {
            let seen = method.step(&toy, &step(i, 4), &rows, &Inputs::new(140 + i as u64, 2));
            assert_eq!(seen.entry().kept[0], seen.entry().kept[1]);
            assert_eq!(seen.asked, [Graph, Nothing, Voted, Nothing][i]);
        }
    }
}

/// A recovery whose plan belongs to its own graph gets one at every evaluation.
#[test]
fn a_plan_that_cannot_be_used_again_is_made_anew() {
    #[derive(Debug)]
    struct Fussy;
    impl TokenRecovery<NdTensor> for Fussy {
        fn needs_graph(&self) -> bool {
            true
        }
        fn plan(&self, input: RecoveryInput<'_, NdTensor>) -> Result<Box<dyn Reduction<NdTensor>>> {
            assert!(input.graph.is_some());
            TokenRecovery::<NdTensor>::plan(&ZeroPadding, input)
        }
    }
    let mut registry = Registry::with_builtins();
    registry.register_recovery("fussy", |_| Ok(Box::new(Fussy))).unwrap();
    let toy = Toy::new(96, 2, GRID);
    let steps: Vec<Inputs> = (0..3).map(|i| Inputs::new(150 + i, 1)).collect();
    let inputs: Vec<&Inputs> = steps.iter().collect();
    let config = AtEdmConfig { recovery: "fussy".into(), ..rescored(3) };
    let seen = Watched::with(&config, &registry, None).steps(&toy, &inputs);
    assert!(seen.iter().all(|seen| seen.asked == Graph));
    assert!(seen.iter().all(|other| other.entry().kept == seen[0].entry().kept));
}

/// The fast presets prune what the paper's prune, at the same prune point and by the same schedule.
#[test]
fn fast_presets_change_votes_alone() {
    for (fast, paper) in [("at-edm-fast", "at-edm"), ("at-edm-dagger-fast", "at-edm-dagger")] {
        let [fast, paper] = [fast, paper].map(|name| AtEdmConfig::preset(name).unwrap());
        assert!(fast.warm_start && fast.epsilon == 0.0);
        let AtEdmConfig { max_iterations, level_iterations, cold_iterations, .. } = fast.clone();
        let votes = AtEdmConfig { max_iterations, level_iterations, cold_iterations, ..paper };
        let slowed = AtEdmConfig {
            warm_start: fast.warm_start,
            rescore_every: fast.rescore_every,
            epsilon: fast.epsilon,
            ..votes
        };
        assert_eq!(slowed, fast);
    }
}
