//! Compares G-WPR with the oracle, and tests its properties.

use atedm_conformance::host::Array;
use atedm_conformance::oracle;
use atedm_core::at_edm::scoring::{FirstVoteQuery, PageRank, PageRankOptions, Start};
use atedm_core::at_edm::{CrossVote, Heads, Norm, ScoreInput, ScoreSource, TokenScorer};
use atedm_core::backend::AttentionGraph;
use atedm_core::plugin::Grid;
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, Tensor};

use crate::support::{Matrix, Random, assert_close, single, site, tensor, values};

const DIM: usize = 4;
const SCALE: f64 = 0.5;

/// Queries and keys `[rows, heads, tokens, DIM]`, and their maps.
struct Maps {
    q: Array,
    k: Array,
}

impl Maps {
    fn new(seed: u64, rows: usize, heads: usize, m: usize, n: usize, sharpness: f64) -> Self {
        let mut random = Random(seed);
        let mut draw = |tokens: usize| {
            let numbers = random.numbers(rows * heads * tokens * DIM);
            Array::new(&[rows, heads, tokens, DIM], numbers).map(|number| number * sharpness)
        };
        Self { q: draw(m), k: draw(n) }
    }

    /// All maps, `[rows, heads, m, n]`.
    fn all(&self) -> Array {
        oracle::attention_map(&self.q, &self.k, SCALE, None)
    }

    /// The map of one head, counted through all rows.
    fn head(&self, i: usize) -> Matrix {
        let all = self.all();
        let (m, n) = (all.shape[2], all.shape[3]);
        all.data[i * m * n..(i + 1) * m * n].chunks(n).map(<[f64]>::to_vec).collect()
    }

    /// The streamed and the dense form of the same graph.
    fn graphs(&self) -> [AttentionGraph<NdTensor>; 2] {
        let [q, k] = [&self.q, &self.k].map(|part| part.upload(DType::F64, &NdDevice).unwrap());
        let streamed = AttentionGraph::from_qk(&q, &k, SCALE).unwrap();
        let dense = AttentionGraph::Dense(streamed.to_dense().unwrap());
        [streamed, dense]
    }
}

fn ranked(options: PageRankOptions, graph: &AttentionGraph<NdTensor>) -> (Vec<f64>, usize) {
    let (scores, votes) = PageRank::new(options).unwrap().per_head(graph, Start::equal()).unwrap();
    (values(&scores), votes)
}

#[test]
fn self_attention_agrees_with_the_oracle() {
    let maps = Maps::new(1, 2, 3, 13, 13, 2.0);
    for graph in maps.graphs() {
        for norm in [Norm::L1, Norm::L2] {
            for (epsilon, damping) in [(0.0, 0.0), (1e-4, 0.0), (1e-2, 0.0), (0.0, 0.2)] {
                let options = PageRankOptions { norm, epsilon, damping, ..PageRankOptions::default() };
                let (got, cast) = ranked(options, &graph);
                let (expected, most) = oracle::page_rank(&maps.all(), &options);
                assert_close(&got, &expected.data, 1e-10);
                assert_eq!(cast, most);
            }
        }
    }
}

#[test]
fn cross_attention_agrees_with_equation_1() {
    let maps = Maps::new(2, 2, 2, 12, 5, 2.0);
    for graph in maps.graphs() {
        let options = PageRankOptions { source: ScoreSource::CrossAttention, ..PageRankOptions::default() };
        let (got, cast) = ranked(options, &graph);
        let (expected, most) = oracle::page_rank(&maps.all(), &options);
        assert_close(&got, &expected.data, 1e-10);
        assert_eq!(cast, most);
    }
}

#[test]
fn certain_and_absent_attention_give_finite_scores() {
    let map = [1.0, 0.0, 0.0, 0.5, 0.5, 0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0];
    let graph = AttentionGraph::Dense(tensor(&map, &[1, 1, 3, 3]));
    let options =
        PageRankOptions { source: ScoreSource::CrossAttention, epsilon: 0.0, ..PageRankOptions::default() };
    let (got, _) = ranked(options, &graph);
    let (expected, _) = oracle::page_rank(&Array::new(&[1, 1, 3, 3], map.to_vec()), &options);
    assert_close(&got, &expected.data, 1e-9);
    assert!(got.iter().all(|s| s.is_finite()));
    assert!(got[0] > 0.999, "a certain row has entropy 0, clamped, and outweighs all others: {got:?}");
}

#[test]
fn other_ways_back_from_text_to_image() {
    let maps = Maps::new(3, 1, 2, 7, 4, 3.0);
    for (cross_vote, back) in [
        (
            CrossVote::Plain,
            (|row: &[f64], keys: &[f64]| row.iter().zip(keys).map(|(a, s)| a * s).sum())
                as fn(&[f64], &[f64]) -> f64,
        ),
        (CrossVote::Hard, |row, keys| {
            let best = (0..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best });
            keys[best]
        }),
    ] {
        let options = PageRankOptions {
            source: ScoreSource::CrossAttention,
            max_iterations: 1,
            epsilon: 0.0,
            cross_vote,
            ..PageRankOptions::default()
        };
        let mut expected = Vec::new();
        for i in 0..2 {
            let map = maps.head(i);
            let keys: Vec<f64> = (0..4).map(|j| map.iter().map(|row| row[j]).sum::<f64>() / 7.0).collect();
            let scores: Vec<f64> = map.iter().map(|row| back(row, &keys)).collect();
            let total: f64 = scores.iter().sum();
            expected.extend(scores.iter().map(|s| s / total));
        }
        for graph in maps.graphs() {
            assert_close(&ranked(options, &graph).0, &expected, 1e-10);
        }
    }
}

#[test]
fn scores_are_never_negative_and_sum_to_one() {
    for seed in 0..20 {
        let n = 2 + seed as usize % 15;
        let maps = Maps::new(seed, 2, 2, n, n, 0.2 * seed as f64);
        for graph in maps.graphs() {
            let (scores, votes) = ranked(PageRankOptions::default(), &graph);
            assert!((1..=5).contains(&votes));
            assert!(scores.iter().all(|&s| s >= 0.0));
            for head in scores.chunks(n) {
                assert!((head.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn permuting_tokens_permutes_scores() {
    let maps = Maps::new(5, 1, 2, 11, 11, 2.0);
    let order = Random(6).permutation(11);
    let places: Vec<u32> = order.iter().map(|&i| i as u32).collect();
    let shuffle = |tokens: &Array| oracle::gather(tokens, 2, std::slice::from_ref(&places));
    let shuffled = Maps { q: shuffle(&maps.q), k: shuffle(&maps.k) };
    let (plain, _) = ranked(PageRankOptions::default(), &maps.graphs()[0]);
    let (moved, _) = ranked(PageRankOptions::default(), &shuffled.graphs()[0]);
    let expected: Vec<f64> = plain.chunks(11).flat_map(|head| order.iter().map(|&i| head[i])).collect();
    assert_close(&moved, &expected, 1e-12);
}

/// One row has heads that rest after one vote. The other row needs all five votes.
#[test]
fn an_images_scores_do_not_depend_on_its_batch_mates() {
    let flat = Maps::new(7, 1, 2, 9, 9, 0.01);
    let sharp = Maps::new(8, 1, 2, 9, 9, 4.0);
    let both =
        Maps { q: oracle::concat(&[&flat.q, &sharp.q], 0), k: oracle::concat(&[&flat.k, &sharp.k], 0) };
    let options = PageRankOptions { epsilon: 1e-3, ..PageRankOptions::default() };
    for form in 0..2 {
        let (flat, fast) = ranked(options, &flat.graphs()[form]);
        let (sharp, slow) = ranked(options, &sharp.graphs()[form]);
        let (together, votes) = ranked(options, &both.graphs()[form]);
        assert!(fast < slow, "{fast} votes against {slow}");
        assert_eq!(votes, slow);
        assert_eq!(together, [flat, sharp].concat());
    }
}

#[test]
fn a_uniform_map_converges_at_once_and_epsilon_zero_never() {
    let graph = AttentionGraph::Dense(tensor(&[0.25; 16], &[1, 1, 4, 4]));
    assert_eq!(ranked(PageRankOptions::default(), &graph), (vec![0.25; 4], 1));
    let stubborn = PageRankOptions { epsilon: 0.0, max_iterations: 7, ..PageRankOptions::default() };
    assert_eq!(ranked(stubborn, &graph), (vec![0.25; 4], 7));
}

#[test]
fn column_mean_is_one_vote() {
    let maps = Maps::new(9, 1, 1, 6, 6, 2.0);
    let scorer = PageRank::column_mean(PageRankOptions::default());
    let (scores, votes) = scorer.per_head(&maps.graphs()[0], Start::equal()).unwrap();
    let map = maps.head(0);
    let expected: Vec<f64> = (0..6).map(|j| map.iter().map(|row| row[j]).sum::<f64>() / 6.0).collect();
    assert_close(&values(&scores), &expected, 1e-12);
    assert_eq!(votes, 1);
}

/// A vote that the forward pass cast counts as the first, whatever scores it used.
#[test]
fn the_forward_passes_vote_is_used_once() {
    let maps = Maps::new(10, 1, 1, 4, 4, 2.0);
    let [AttentionGraph::Streamed(streamed), _] = maps.graphs() else { panic!("streamed form expected") };
    let marker = tensor(&[4.0, 3.0, 2.0, 1.0], &[1, 1, 4]);
    let graph = AttentionGraph::Streamed(streamed);
    let after = |scores| Start { scores, first_vote: Some(&marker) };
    let scorer = PageRank::column_mean(PageRankOptions::default());
    let (scores, _) = scorer.per_head(&graph, after(None)).unwrap();
    assert_close(&values(&scores), &[0.4, 0.3, 0.2, 0.1], 1e-12);
    let start = tensor(&[0.25; 4], &[1, 1, 4]);
    let (scores, votes) = scorer.per_head(&graph, after(Some(&start))).unwrap();
    assert_close(&values(&scores), &[0.4, 0.3, 0.2, 0.1], 1e-12);
    assert_eq!(votes, 1);
    let two = PageRankOptions { max_iterations: 2, epsilon: 0.0, ..PageRankOptions::default() };
    let (scores, votes) = PageRank::new(two).unwrap().per_head(&graph, after(None)).unwrap();
    let mut second = [0.0; 4];
    for (row, weight) in maps.head(0).iter().zip([0.4, 0.3, 0.2, 0.1]) {
        second.iter_mut().zip(row).for_each(|(sum, a)| *sum += weight * a);
    }
    assert_close(&values(&scores), &second, 1e-12);
    assert_eq!(votes, 2);
}

#[test]
fn a_warm_start_is_where_voting_begins() {
    let maps = Maps::new(11, 1, 2, 5, 5, 2.0);
    let graph = &maps.graphs()[0];
    let options = |most| PageRankOptions { max_iterations: most, epsilon: 0.0, ..PageRankOptions::default() };
    let (two, _) = PageRank::new(options(2)).unwrap().per_head(graph, Start::equal()).unwrap();
    let (resumed, _) = PageRank::new(options(3)).unwrap().per_head(graph, Start::from_scores(&two)).unwrap();
    let (five, _) = PageRank::new(options(5)).unwrap().per_head(graph, Start::equal()).unwrap();
    assert_eq!(values(&resumed), values(&five));
}

#[test]
fn heads_combine_by_rms_mean_or_maximum() {
    let maps = Maps::new(12, 2, 3, 6, 6, 2.0);
    let graph = &maps.graphs()[0];
    let (per_head, _) = ranked(PageRankOptions::default(), graph);
    let hidden = tensor(&[0.0; 12], &[2, 6, 1]);
    let rows = single(2);
    let site = site(Grid::new(2, 3), &rows);
    for (heads, combine) in [
        (
            Heads::Rms,
            (|h: [f64; 3]| (h.iter().map(|x| x * x).sum::<f64>() / 3.0).sqrt()) as fn([f64; 3]) -> f64,
        ),
        (Heads::Mean, |h| h.iter().sum::<f64>() / 3.0),
        (Heads::Max, |h| h[0].max(h[1]).max(h[2])),
    ] {
        let mut scorer = PageRank::new(PageRankOptions { heads, ..PageRankOptions::default() }).unwrap();
        let input = ScoreInput {
            site: &site,
            hidden: &hidden,
            graph: Some(graph),
            first_vote: None,
            values: None,
            entry_tokens: 6,
            positions: None,
            seed: 0,
        };
        let scores = scorer.score(&input).unwrap();
        assert_eq!(scores.tokens.shape(), [2, 6]);
        let at = |b: usize, j: usize| combine([0, 1, 2].map(|h| per_head[(b * 3 + h) * 6 + j]));
        let expected: Vec<f64> = (0..12).map(|i| at(i / 6, i % 6)).collect();
        assert_close(&values(&scores.tokens), &expected, 1e-12);
        let missing = ScoreInput { graph: None, ..input };
        assert!(scorer.score(&missing).unwrap_err().to_string().contains("attention graph"));
    }
}

#[test]
fn the_first_vote_is_of_equal_scores_and_only_for_self_attention() {
    let rows = single(2);
    let query = FirstVoteQuery {
        site: &site(Grid::new(1, 5), &rows),
        entry_tokens: 5,
        positions: None,
        shape: [2, 3, 5],
        dtype: DType::F64,
        device: NdDevice,
    };
    let own = PageRank::new(PageRankOptions::default()).unwrap();
    let uniform: NdTensor = own.first_vote_scores(&query).unwrap().unwrap();
    assert_eq!(uniform.shape(), [2, 3, 5]);
    assert_eq!(values(&uniform), vec![0.2; 30]);
    let cross = PageRankOptions { source: ScoreSource::CrossAttention, ..PageRankOptions::default() };
    let none: Option<NdTensor> = PageRank::new(cross).unwrap().first_vote_scores(&query).unwrap();
    assert!(none.is_none());
}

#[test]
fn bad_options_and_shapes_are_errors() {
    let base = PageRankOptions::default();
    for (options, field) in [
        (PageRankOptions { max_iterations: 0, ..base }, "max_iterations"),
        (PageRankOptions { epsilon: -1.0, ..base }, "epsilon"),
        (PageRankOptions { epsilon: f64::NAN, ..base }, "epsilon"),
        (PageRankOptions { damping: 1.0, ..base }, "damping"),
    ] {
        assert!(PageRank::new(options).unwrap_err().to_string().starts_with(field));
    }
    let oblong = AttentionGraph::Dense(tensor(&[0.5; 6], &[1, 1, 3, 2]));
    assert!(PageRank::new(base).unwrap().per_head(&oblong, Start::equal()).is_err());
    let square = AttentionGraph::Dense(tensor(&[0.5; 4], &[1, 1, 2, 2]));
    let start = tensor(&[1.0; 3], &[1, 1, 3]);
    assert!(PageRank::new(base).unwrap().per_head(&square, Start::from_scores(&start)).is_err());
    let early = Start { scores: None, first_vote: Some(&start) };
    assert!(PageRank::new(base).unwrap().per_head(&square, early).is_err());
}
