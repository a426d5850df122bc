//! Warm starts, and caps by level.

use std::sync::Arc;

use atedm_core::at_edm::scoring::{PageRank, PageRankOptions, Start, WarmPageRank};
use atedm_core::at_edm::{AtEdmConfig, Parts, ScoreInput, ScoreSource, TokenScorer};
use atedm_core::backend::AttentionGraph;
use atedm_core::plugin::{BuildContext, Grid, PruneObserver, PruneRecord, Row, Run, Site, Stage, Sublayer};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{Indices, Result};

use crate::method::{GRID, Inputs, config};
use crate::support::{Random, batch, block, single, site, step, tensor, values};
use crate::toy::{Asked, Toy};
use crate::watched::{Seen, Watched, image, warm};

use Asked::{FirstVote, Graph};

fn cold(votes: usize) -> AtEdmConfig {
    AtEdmConfig { max_iterations: votes, epsilon: 0.0, ..config() }
}

/// Row `row` of some inputs.
fn alone(inputs: &Inputs, row: usize) -> Inputs {
    Inputs { hidden: vec![inputs.hidden[row].clone()], text: vec![inputs.text[row].clone()] }
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

/// The forward pass is asked to vote with the warm scores, and its vote is used.
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
            assert_eq!(voted.asked, if i == 0 { Graph } else { FirstVote });
            assert_eq!(voted.entry().scores, lazy.entry().scores, "step {i}");
            assert_eq!(voted.output, lazy.output);
        }
    }
}

/// A site's first evaluation may cast more votes than the evaluations that continue from it.
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
    // The option has no meaning without a warm start.
    let config = AtEdmConfig { warm_start: false, ..config };
    assert_eq!(Watched::new(&config).steps(&toy, &[&inputs])[0].entry().votes, 2);
}

/// An observer's graph holds no vote, whatever the method requested.
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
        fn graph(&mut self, _: &Site<'_>, _: Sublayer, _: &AttentionGraph<NdTensor>) -> Result<()> {
            self.0 += 1;
            Ok(())
        }
    }
    let shown = Arc::new(std::sync::Mutex::new(Shown(0)));
    let context = BuildContext { observer: Some(shown.clone() as _), ..BuildContext::default() };
    let mut method = warm().build(&context, &Parts::with_builtins()).unwrap();
    let (toy, inputs) = (Toy::new(97, 2, GRID), Inputs::new(98, 1));
    for i in 0..2 {
        let (hidden, text) = (batch(&inputs.hidden), batch(&inputs.text));
        let (_, asked) = toy.run(&mut method, &step(i, 2), &single(1), hidden, &text).unwrap();
        assert_eq!(asked[0], if i == 0 { Graph } else { FirstVote });
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
    // The rows in another order.
    let swapped = Inputs {
        hidden: steps[1].hidden.iter().rev().cloned().collect(),
        text: steps[1].text.iter().rev().cloned().collect(),
    };
    let seen = method.step(&toy, &step(1, 4), &[image(1), image(0)], &swapped);
    assert_eq!(seen.asked, FirstVote);
    same(1, 1, &seen, 0);
    same(1, 0, &seen, 1);
    // The rows one after the other.
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
    method.method.begin_run(&Run::new(1, 0, &rows)).unwrap();
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
    let site = Site { tokens, ..site(Grid::new(1, tokens), rows) };
    let at = positions.map(|(rows, _)| Indices::from_host(rows, &NdDevice)).transpose()?;
    let input = ScoreInput {
        site: &site,
        hidden: &hidden,
        graph: Some(graph),
        first_vote: None,
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

/// After an earlier pruning layer each token continues from its own score, wherever it now stands.
#[test]
fn warm_scores_follow_tokens_through_an_earlier_layer() {
    let rows = single(1);
    let graph = graph(5, 1, 1, 4);
    let at = [vec![1, 3, 4, 7]];
    let mut scorer = WarmPageRank::new(one_vote());
    let first = score(&mut scorer, &graph, &rows, Some((&at, 9))).unwrap();
    let vote = |start: &[f64]| {
        let (scores, _) =
            one_vote().per_head(&graph, Start::from_scores(&tensor(start, &[1, 1, 4]))).unwrap();
        values(&scores)
    };
    // Token 4 is gone. Token 6 is new and starts from the mean, 1/4.
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

/// The fast presets prune as much as the paper's presets, at the same prune point and with the same schedule.
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
