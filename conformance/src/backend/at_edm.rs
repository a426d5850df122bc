//! AT-EDM on a backend: compares scores, selections and recoveries with an implementation that stores every map.

use std::sync::Arc;

use atedm_core::at_edm::scoring::{PageRank, PageRankOptions, Start};
use atedm_core::at_edm::{AtEdmConfig, Bicubic, CrossVote, Heads, Norm, Parts, PrunePoint, ScoreSource};
use atedm_core::plugin::{
    Branch, BuildContext, GuidanceMasks, MaskEntry, MaskRecorder, MaskSet, Row, Unpruned,
};
use atedm_core::{AttentionGraph, AttentionOps, Backend, DType, DeviceOf, Result, Tensor};

use super::block::{TestBlock, small};
use super::support::{Lab, TensorOf, recorded};
use crate::host::Array;
use crate::oracle::{self, Pruning, Recovery};
use crate::tolerance::{
    assert_chain_arrays, assert_chain_close, assert_exact, assert_mass_close, assert_relative_l2, chain,
    entropy_scores,
};

fn config() -> AtEdmConfig {
    AtEdmConfig { schedule: "constant".into(), epsilon: 0.0, ..AtEdmConfig::default() }
}

/// Runs a block under a configuration. Returns the output and the decisions.
fn run<T: AttentionOps>(block: &TestBlock<T>, config: &AtEdmConfig, rows: &[Row]) -> Result<(T, MaskSet)> {
    let recorder = MaskRecorder::shared();
    let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
    let output = block.run_rows(&mut config.build(&context, &Parts::with_builtins())?, rows)?;
    let masks = recorder.lock().unwrap().take();
    Ok((output, masks))
}

fn singles<T: AttentionOps>(block: &TestBlock<T>, config: &AtEdmConfig) -> Result<(T, MaskSet)> {
    run(block, config, &Row::singles(block.hidden.host.shape[0]))
}

fn only(masks: &MaskSet) -> &MaskEntry {
    assert_eq!(masks.len(), 1, "one decision");
    masks.iter().next().expect("one").1
}

/// The maps of random queries and keys, `[2, 3, m, n]`.
fn map<B: Backend>(lab: &mut Lab<'_, B>, m: usize, n: usize) -> Result<(AttentionGraph<TensorOf<B>>, Array)> {
    let (q, k) = (lab.normals(&[2, 3, m, 6])?, lab.normals(&[2, 3, n, 6])?);
    let graph = AttentionGraph::from_qk(&q.on, &k.on, 0.8)?;
    Ok((graph, oracle::attention_map(&q.host, &k.host, 0.8, None)))
}

fn assert_ranks<B: Backend>(
    graph: &AttentionGraph<TensorOf<B>>,
    host: &Array,
    options: PageRankOptions,
    dtype: DType,
) -> Result<()> {
    let (expected, votes) = oracle::page_rank(host, &options);
    let dense = AttentionGraph::Dense(graph.to_dense()?);
    for (form, graph) in [("streamed", graph), ("dense", &dense)] {
        let (scores, cast) = PageRank::new(options)?.per_head(graph, Start::equal())?;
        assert_eq!(scores.dtype(), dtype.accumulator());
        assert_eq!(cast, votes, "votes cast on the {form} map, {options:?}");
        assert_mass_close(&scores, &expected, dtype, &format!("{form}, {options:?}"));
    }
    Ok(())
}

/// G-WPR on self-attention agrees with the oracle: votes, norms, damping, and the stopping rule.
pub fn page_rank_on_self_attention<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 1);
    let (graph, host) = map(&mut lab, 37, 37)?;
    let base = PageRankOptions { epsilon: 0.0, ..PageRankOptions::default() };
    for max_iterations in [1, 2, 5, 20] {
        for norm in [Norm::L1, Norm::L2] {
            assert_ranks::<B>(&graph, &host, PageRankOptions { max_iterations, norm, ..base }, dtype)?;
        }
    }
    assert_ranks::<B>(&graph, &host, PageRankOptions { damping: 0.15, ..base }, dtype)?;
    assert_ranks::<B>(&graph, &host, PageRankOptions { epsilon: 1e-2, max_iterations: 50, ..base }, dtype)
}

/// G-WPR on cross-attention agrees with the oracle: Eq. 1 and the other ways back to the image tokens.
pub fn page_rank_on_cross_attention<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 2);
    let (graph, host) = map(&mut lab, 37, 11)?;
    for cross_vote in [CrossVote::Entropy, CrossVote::Plain, CrossVote::Hard] {
        for max_iterations in [1, 5] {
            let source = ScoreSource::CrossAttention;
            let epsilon = 0.0;
            let options =
                PageRankOptions { source, cross_vote, max_iterations, epsilon, ..Default::default() };
            assert_ranks::<B>(&graph, &host, options, dtype)?;
        }
    }
    Ok(())
}

/// A head that has converged keeps its scores. So the scores of a row do not depend on the rest of the batch.
pub fn convergence_is_judged_per_head<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 3);
    let (graph, host) = map(&mut lab, 23, 23)?;
    // the first image attends evenly everywhere and converges at once
    let maps = Array::from_fn(&host.shape, |i| if i[0] == 0 { 1.0 / 23.0 } else { host.at(i) });
    let both = lab.sample_as(maps, dtype.accumulator())?;
    let alone = both.on.narrow(0, 1, 1)?;
    let rank = PageRank::new(PageRankOptions { epsilon: 1e-2, max_iterations: 50, ..Default::default() })?;
    let (scores, votes) = rank.per_head(&AttentionGraph::Dense(both.on), Start::equal())?;
    let (scores_alone, votes_alone) = rank.per_head(&AttentionGraph::Dense(alone), Start::equal())?;
    assert_eq!(votes, votes_alone);
    assert!(votes > 1 && graph.dims()?[0] == 2);
    assert_mass_close(&scores.narrow(0, 1, 1)?, &Array::read(&scores_alone)?, dtype, "alone or not");
    Ok(())
}

/// The comparison scorers agree with the oracle: column mean, value norm, token norm, and seeded random numbers.
pub fn comparison_scorers_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 4), 2)?;
    let scored = |scorer: &str| -> Result<Array> {
        let config = AtEdmConfig { scorer: scorer.into(), recovery: "zero".into(), ..config() };
        let scores = only(&singles(&block, &config)?.1).scores.clone();
        Ok(Array::new(&[2, 35], scores.concat().into_iter().map(f64::from).collect()))
    };
    let one_vote = PageRankOptions { max_iterations: 1, epsilon: 0.0, ..PageRankOptions::default() };
    let seen = scores_of_the_oracle(&block, one_vote);
    assert_chain_arrays(&scored("column-mean")?, &seen, recorded(dtype), "column mean");
    let norms = scored("token-norm")?;
    assert!(norms.data.iter().all(|&norm| norm > 0.0));
    assert!(scored("value-norm")?.data.iter().all(|&norm| norm > 0.0));
    let random = scored("random")?;
    assert_eq!(random, scored("random")?, "the same seed draws the same scores");
    let context = |seed: u64| BuildContext::<TensorOf<B>> { seed, ..BuildContext::default() };
    let config = AtEdmConfig { scorer: "random".into(), recovery: "zero".into(), ..config() };
    let under = |seed: u64| -> Result<Array> {
        let mut reducer = config.build(&context(seed), &Parts::with_builtins())?;
        Array::read(&block.run(&mut reducer)?)
    };
    assert_eq!(under(1)?, under(1)?);
    assert!(under(1)? != under(2)?, "another seed draws others");
    Ok(())
}

fn scores_of_the_oracle<T: AttentionOps>(block: &TestBlock<T>, score: PageRankOptions) -> Array {
    let pruning = Pruning {
        layers: vec![0],
        point: PrunePoint::AfterFf,
        score,
        recovery: Recovery::Zero,
        grid: [block.grid.height, block.grid.width],
    };
    let mut seen = None;
    block.host.run_pruned(&block.hidden.host, &block.text.host, Some(&pruning), &mut |_, scores| {
        seen = Some(scores.clone());
        vec![(0..20).collect(); 2]
    });
    seen.expect("one pruning layer")
}

/// Runs a pruned block on both sides. The scores must agree. The kept sets must follow from the backend's scores by the
/// exact rule. With those kept sets, the outputs must agree.
fn assert_pruned<T: AttentionOps>(
    block: &TestBlock<T>,
    config: &AtEdmConfig,
    recovery: Recovery,
    dtype: DType,
) -> Result<()> {
    let what = format!("{config:?}");
    let (output, masks) = singles(block, config)?;
    let entries: Vec<MaskEntry> = masks.iter().map(|(_, entry)| entry.clone()).collect();
    assert_eq!(entries.len(), config.prune_layers.len(), "{what}");
    let pruning = Pruning {
        layers: config.prune_layers.clone(),
        point: config.prune_point,
        score: PageRankOptions {
            source: config.score,
            max_iterations: config.max_iterations,
            epsilon: config.epsilon,
            norm: config.norm,
            heads: config.heads,
            damping: config.damping,
            cross_vote: config.cross_vote,
        },
        recovery,
        grid: [block.grid.height, block.grid.width],
    };
    let mut decisions = entries.iter();
    let expected =
        block.host.run_pruned(&block.hidden.host, &block.text.host, Some(&pruning), &mut |layer, scores| {
            let entry = decisions.next().expect("as many decisions on both sides");
            let tokens = scores.shape[1];
            let rows: Vec<Vec<f64>> =
                entry.scores.iter().map(|row| row.iter().copied().map(f64::from).collect()).collect();
            let seen = Array::new(&[2, tokens], rows.concat());
            let allowed = match config.score {
                ScoreSource::SelfAttention => chain(recorded(dtype)),
                ScoreSource::CrossAttention => entropy_scores(recorded(dtype)),
            };
            assert_relative_l2(&seen, scores, allowed, &format!("scores of layer {layer}, {what}"));
            let kept = tokens - (config.ratio * tokens as f64).floor() as usize;
            // rounding can change discrete choices, so below f64 they are made from the backend's own scores
            let decisive = if dtype == DType::F64 { &scores.data } else { &seen.data };
            for (b, row) in decisive.chunks(tokens).enumerate() {
                let rule = oracle::split_top_k(row, kept).0;
                assert_eq!(entry.kept[b], rule, "kept set of layer {layer}, {what}");
            }
            entry.kept.clone()
        });
    // the weights of normalized bicubic recovery are f32 in every dtype
    let precision = if recovery == Recovery::Bicubic(Bicubic::Normalised) { recorded(dtype) } else { dtype };
    assert_chain_close(&output, &expected, precision, &what);
    Ok(())
}

/// Pruned blocks agree with the oracle: both prune points, every recovery, several pruning layers, self and cross,
/// norms and heads.
pub fn pruned_blocks_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 5), 3)?;
    let bicubic = |bicubic| AtEdmConfig { recovery: "bicubic".into(), bicubic, ..config() };
    let mut cases = vec![
        (AtEdmConfig { recovery: "zero".into(), ..config() }, Recovery::Zero),
        (AtEdmConfig { recovery: "direct".into(), ..config() }, Recovery::Direct),
        (bicubic(Bicubic::Plain), Recovery::Bicubic(Bicubic::Plain)),
        (bicubic(Bicubic::Normalised), Recovery::Bicubic(Bicubic::Normalised)),
        (AtEdmConfig { recovery: "zero".into(), norm: Norm::L2, ..config() }, Recovery::Zero),
        (AtEdmConfig { recovery: "zero".into(), heads: Heads::Mean, ..config() }, Recovery::Zero),
        (AtEdmConfig { recovery: "zero".into(), heads: Heads::Max, ..config() }, Recovery::Zero),
        (
            AtEdmConfig { recovery: "direct".into(), score: ScoreSource::CrossAttention, ..config() },
            Recovery::Direct,
        ),
    ];
    // if half precision cannot distinguish two donors, a swap would exchange whole tokens;
    // `strongest_against_the_oracle` checks donors there
    if dtype == dtype.accumulator() {
        cases.push((config(), Recovery::Similarity));
        cases.push((AtEdmConfig { score: ScoreSource::CrossAttention, ..config() }, Recovery::Similarity));
    }
    for (base, recovery) in cases {
        for prune_point in [PrunePoint::AfterFf, PrunePoint::BeforeFf] {
            for prune_layers in [vec![0], vec![1], vec![0, 1]] {
                let config = AtEdmConfig { prune_point, prune_layers, ratio: 0.45, ..base.clone() };
                assert_pruned(&block, &config, recovery, dtype)?;
            }
        }
    }
    Ok(())
}

/// With ratio 0, the output equals the whole block bit by bit.
pub fn ratio_zero_is_the_identity<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 6), 2)?;
    let (output, masks) = singles(&block, &AtEdmConfig { ratio: 0.0, ..config() })?;
    assert!(masks.is_empty());
    assert_exact(&output, &Array::read(&block.run(&mut Unpruned)?)?, "ratio 0");
    Ok(())
}

/// A block with one layer is never pruned, at either prune point.
pub fn depth_one_is_the_identity<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 7), 1)?;
    let whole = Array::read(&block.run(&mut Unpruned)?)?;
    for prune_point in [PrunePoint::AfterFf, PrunePoint::BeforeFf] {
        let (output, masks) = singles(&block, &AtEdmConfig { prune_point, ..config() })?;
        assert!(masks.is_empty());
        assert_exact(&output, &whole, "depth 1");
    }
    Ok(())
}

/// If the kept sets of a run are replayed, the output is equal bit by bit, and nothing is scored.
pub fn replayed_masks_give_the_same_output<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 8), 3)?;
    let config = AtEdmConfig { prune_layers: vec![0, 1], ratio: 0.4, ..config() };
    let (output, masks) = singles(&block, &config)?;
    let context = BuildContext { replay: Some(Arc::new(masks)), ..BuildContext::default() };
    let mut reducer = config.build(&context, &Parts::with_builtins())?;
    assert_exact(&block.run(&mut reducer)?, &Array::read(&output)?, "replayed");
    Ok(())
}

/// With shared masks, both halves of guidance keep the same tokens. With masks per row, they do not.
pub fn guidance_masks_are_shared<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 9), 2)?;
    let rows = [Branch::Uncond, Branch::Cond].map(|branch| Row { image: 0, branch });
    let kept = |guidance| -> Result<MaskEntry> {
        Ok(only(&run(&block, &AtEdmConfig { guidance, ..config() }, &rows)?.1).clone())
    };
    let (own, cond, mean) =
        (kept(GuidanceMasks::PerRow)?, kept(GuidanceMasks::Cond)?, kept(GuidanceMasks::Mean)?);
    assert_ne!(own.kept[0], own.kept[1]);
    assert_eq!(cond.kept, [own.kept[1].clone(), own.kept[1].clone()]);
    assert_eq!(mean.kept[0], mean.kept[1]);
    let halves = own.scores[0].iter().zip(&own.scores[1]).map(|(a, b)| f64::from(a + b) / 2.0).collect();
    let seen = mean.scores[0].iter().copied().map(f64::from).collect();
    let row = |values: Vec<f64>| Array::new(&[35], values);
    crate::tolerance::assert_arrays_close(
        &row(seen),
        &row(halves),
        recorded(dtype),
        "the mean of both halves",
    );
    Ok(())
}

/// Protected tokens are kept, whatever their scores.
pub fn protected_tokens_stay<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    use atedm_core::plugin::{Action, Event, Grid, Reductions, Site, Sublayer, TokenReducer};
    let mut lab = Lab::<B>::new(device, dtype, 10);
    let hidden = lab.normals(&[1, 30, 4])?.on;
    let parts = Parts::with_builtins();
    let recorder = MaskRecorder::shared();
    let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
    let config = AtEdmConfig { scorer: "random".into(), recovery: "zero".into(), ratio: 0.9, ..config() };
    let mut reducer = config.build::<TensorOf<B>>(&context, &parts)?;
    let rows = Row::singles(1);
    let site = Site {
        block: atedm_core::plugin::BlockId::whole(),
        layer: 0,
        depth: 2,
        step: super::block::first_step(10),
        grid: Grid::new(5, 6),
        tokens: 30,
        protected: (10, 18),
        rows: &rows,
    };
    reducer.on_event(&site, Event::LayerEnter { hidden: &hidden })?;
    let event = Event::After {
        sub: Sublayer::FeedForward,
        hidden: &hidden,
        output: &hidden,
        reductions: Reductions::none(),
    };
    let answer = reducer.on_event(&site, event)?;
    assert!(matches!(answer, Action::UntilExit(_)));
    let masks = recorder.lock().unwrap().take();
    let kept = &only(&masks).kept[0];
    assert!((10..18).all(|token| kept.contains(&token)), "{kept:?}");
    // 0.9 of the other 22 are removed
    assert_eq!(kept.len(), 30 - 19);
    Ok(())
}

/// A vote that the forward pass casts gives the same kept sets as a vote that is cast afterwards.
pub fn a_first_vote_on_the_way_changes_nothing<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 11), 2)?;
    let recorder = MaskRecorder::shared();
    let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
    let mut reducer = config().build(&context, &Parts::with_builtins())?;
    // the heads of a block are known from its second pass on; from then on there is a first vote
    let mut runs = Vec::new();
    for _ in 0..2 {
        block.run(&mut reducer)?;
        runs.push(only(&recorder.lock().unwrap().take()).scores.concat());
    }
    let row = |values: &[f32]| Array::new(&[70], values.iter().copied().map(f64::from).collect());
    assert_chain_arrays(&row(&runs[1]), &row(&runs[0]), recorded(dtype), "scores of the second pass");
    Ok(())
}
