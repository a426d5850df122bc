//! The surroundings of the method: masks, observers, guidance, protection, comparison scorers.

use std::sync::{Arc, Mutex};

use atedm_conformance::oracle::split_top_k;
use atedm_core::at_edm::scoring::RandomScores;
use atedm_core::at_edm::{AtEdmConfig, Parts, Protect, PrunePoint, ScoreInput, TokenScorer};
use atedm_core::backend::{AttentionGraph, dims};
use atedm_core::plugin::{
    Action, BlockShape, Branch, BuildContext, Event, Grid, GuidanceMasks, MaskEntry, MaskRecorder, MaskSet,
    PruneObserver, PruneRecord, Reduction, Registry, Row, Run, SharedObserver, Site, Spots, StepOf, Sublayer,
    TokenReducer,
};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{Indices, Result, Tensor};
use serde_json::json;

use crate::method::{GRID, Inputs, build, config, run};
use crate::support::{Random, batch, single, site, step, tensor, values};
use crate::toy::{Asked, Toy};

fn _reducers_are_object_safe(_: Box<dyn TokenReducer<NdTensor>>, _: Box<dyn Reduction<NdTensor>>) {}

fn recorded(toy: &Toy, config: &AtEdmConfig, inputs: &Inputs) -> (Vec<f64>, MaskSet) {
    let recorder = MaskRecorder::shared();
    let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
    let mut method = config.build(&context, &Parts::with_builtins()).unwrap();
    let (out, _) = run(toy, &mut method, inputs).unwrap();
    let masks = recorder.lock().unwrap().take();
    (values(&out), masks)
}

fn replayed(
    toy: &Toy,
    config: &AtEdmConfig,
    inputs: &Inputs,
    masks: MaskSet,
) -> Result<(Vec<f64>, Vec<Asked>)> {
    let context = BuildContext { replay: Some(Arc::new(masks)), ..BuildContext::default() };
    let mut method = config.build(&context, &Parts::with_builtins())?;
    run(toy, &mut method, inputs).map(|(out, asked)| (values(&out), asked))
}

#[test]
fn a_recording_replays_to_the_same_result() {
    let (toy, inputs) = (Toy::new(50, 4, GRID), Inputs::new(51, 2));
    for recovery in ["similarity", "bicubic", "zero"] {
        let config =
            AtEdmConfig { recovery: recovery.into(), prune_layers: vec![0, 1, 2], ratio: 0.3, ..config() };
        let (expected, masks) = recorded(&toy, &config, &inputs);
        assert_eq!(masks.len(), 3);
        for (key, entry) in masks.iter() {
            assert_eq!((key.step, key.block.as_str(), entry.kept.len()), (0, "mid.0", 2));
            assert_eq!(entry.scores[0].len(), entry.tokens);
            assert!((1..=5).contains(&entry.votes));
            assert_eq!(entry.positions.is_empty(), key.layer == 0);
            assert!(entry.kept_on_grid().iter().flatten().all(|&cell| (cell as usize) < GRID.tokens()));
        }
        let entries: Vec<&MaskEntry> = masks.iter().map(|(_, entry)| entry).collect();
        for pair in entries.windows(2) {
            assert_eq!(pair[1].positions, pair[0].kept_on_grid());
        }
        // Nothing is scored. A recovery that needs no graph then requests none.
        let (got, asked) = replayed(&toy, &config, &inputs, masks).unwrap();
        assert_eq!(got, expected);
        assert_eq!(asked.contains(&Asked::Graph), recovery == "similarity");
    }
}

#[test]
fn masks_that_do_not_fit_are_errors() {
    let (toy, inputs) = (Toy::new(52, 3, GRID), Inputs::new(53, 1));
    let (_, masks) = recorded(&toy, &config(), &inputs);
    let message = |config: &AtEdmConfig, masks: MaskSet| {
        replayed(&toy, config, &inputs, masks).expect_err("these masks do not fit").to_string()
    };
    let changed = |change: &dyn Fn(&mut MaskEntry)| -> MaskSet {
        let spoil = |(key, entry): (&_, &MaskEntry)| {
            let mut entry = entry.clone();
            change(&mut entry);
            (Clone::clone(key), entry)
        };
        masks.iter().map(spoil).collect()
    };
    let missing = message(&config(), MaskSet::default());
    assert!(missing.starts_with("masks: ") && missing.contains("mid.0, layer 0"), "{missing}");
    let ratio = message(&AtEdmConfig { ratio: 0.5, ..config() }, masks.clone());
    assert!(ratio.contains("expected 10 kept tokens") && ratio.contains("got 8"), "{ratio}");
    let elsewhere = message(&AtEdmConfig { prune_layers: vec![1], ..config() }, masks.clone());
    assert!(elsewhere.contains("do not prune"), "{elsewhere}");
    let tokens = message(&config(), changed(&|entry| entry.tokens = 19));
    assert!(tokens.contains("expected 20 tokens"), "{tokens}");
    let rows = message(&config(), changed(&|entry| entry.kept.push(entry.kept[0].clone())));
    assert!(rows.contains("expected 1 batch rows"), "{rows}");
    let order = message(&config(), changed(&|entry| entry.kept[0].swap(0, 1)));
    assert!(order.starts_with("masks: ") && order.contains("ascending"), "{order}");
    let range = message(&config(), changed(&|entry| *entry.kept[0].last_mut().unwrap() = 20));
    assert!(range.contains("below 20"), "{range}");
}

/// Counts the calls.
#[derive(Default)]
struct Counter {
    graphs: usize,
    pruned: usize,
}

impl PruneObserver<NdTensor> for Counter {
    fn pruned(&mut self, _: &Site<'_>, record: &PruneRecord<'_, NdTensor>) -> Result<()> {
        assert!(record.scores.is_some());
        self.pruned += 1;
        Ok(())
    }
    fn wants_graph(&self, _: &Site<'_>, sub: Sublayer) -> bool {
        sub == Sublayer::SelfAttention
    }
    fn graph(&mut self, _: &Site<'_>, _: Sublayer, graph: &AttentionGraph<NdTensor>) -> Result<()> {
        assert_eq!(graph.second_moment()?.shape()[1], 2);
        self.graphs += 1;
        Ok(())
    }
}

#[test]
fn observers_see_graphs_of_pruned_and_of_full_models() {
    let (toy, inputs) = (Toy::new(54, 3, GRID), Inputs::new(55, 1));
    for (method, pruned) in [("at-edm", 1), ("none", 0)] {
        let counter = Arc::new(Mutex::new(Counter::default()));
        let observer: SharedObserver<NdTensor> = counter.clone();
        let context = BuildContext { observer: Some(observer), ..BuildContext::default() };
        let mut method = Registry::with_builtins().build(method, &json!({}), &context).unwrap();
        run(&toy, method.as_mut(), &inputs).unwrap();
        let seen = counter.lock().unwrap();
        assert_eq!((seen.graphs, seen.pruned), (3, pruned));
    }
}

#[test]
fn guidance_halves_share_one_set() {
    let rows = [(0, Branch::Cond), (1, Branch::Cond), (0, Branch::Uncond), (1, Branch::Uncond)]
        .map(|(image, branch)| Row { image, branch });
    let scores = || tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &[4, 2]);
    let shared = |mode: GuidanceMasks| values(&mode.share(scores(), &rows).unwrap());
    assert_eq!(shared(GuidanceMasks::PerRow), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(shared(GuidanceMasks::Cond), [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(shared(GuidanceMasks::Mean), [3.0, 4.0, 5.0, 6.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(shared(GuidanceMasks::First), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    let alone = |mode: GuidanceMasks| mode.share(scores(), &single(4)).map(|s| values(&s));
    assert_eq!(alone(GuidanceMasks::Mean).unwrap(), values(&scores()));
    // the first row also serves a batch without guidance
    let expected = [1.0, 2.0].repeat(4);
    assert_eq!(alone(GuidanceMasks::First).unwrap(), expected);
    assert!(GuidanceMasks::First.is_shared(&single(2)) && !GuidanceMasks::First.is_shared(&single(1)));
    let halves = |branch: Branch| [0, 1, 2, 3].map(|image| Row { image, branch });
    assert!(GuidanceMasks::Cond.share(scores(), &halves(Branch::Cond)).is_ok());
    let error = GuidanceMasks::Mean.share(scores(), &halves(Branch::Cond)).unwrap_err().to_string();
    assert!(error.starts_with("guidance: "), "{error}");
    assert!(GuidanceMasks::Cond.share(scores(), &halves(Branch::Uncond)).is_err());
    assert!(GuidanceMasks::Cond.share(scores(), &rows[..2]).is_err());
}

#[test]
fn guidance_modes_reach_the_kept_sets() {
    let (toy, inputs) = (Toy::new(56, 2, GRID), Inputs::new(57, 2));
    let rows = [Branch::Cond, Branch::Uncond].map(|branch| Row { image: 0, branch });
    let kept = |guidance: GuidanceMasks| {
        let recorder = MaskRecorder::shared();
        let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
        let config = AtEdmConfig { guidance, ..config() };
        let mut method = config.build(&context, &Parts::with_builtins()).unwrap();
        toy.run(&mut method, &step(0, 1), &rows, batch(&inputs.hidden), &batch(&inputs.text)).unwrap();
        let masks = recorder.lock().unwrap().take();
        let (_, entry) = masks.iter().next().unwrap();
        entry.kept.clone()
    };
    let own = kept(GuidanceMasks::PerRow);
    assert_ne!(own[0], own[1]);
    assert_eq!(kept(GuidanceMasks::Cond), [own[0].clone(), own[0].clone()]);
    let mean = kept(GuidanceMasks::Mean);
    assert_eq!(mean[0], mean[1]);
    assert_eq!(kept(GuidanceMasks::First), [own[0].clone(), own[0].clone()]);
}

#[test]
fn protected_tokens_always_stay() {
    let toy = Toy { protected: (6, 13), ..Toy::new(58, 4, GRID) };
    let config = AtEdmConfig { prune_layers: vec![0, 1, 2], ratio: 0.9, ..config() };
    let (_, masks) = recorded(&toy, &config, &Inputs::new(59, 2));
    let counts: Vec<usize> = masks.iter().map(|(_, entry)| entry.kept[0].len()).collect();
    // 13, then 2 removable tokens: floor(0.9 · 13) and floor(0.9 · 2) are removed. One of each kind always stays.
    assert_eq!(counts, [9, 8]);
    for (_, entry) in masks.iter() {
        for row in entry.kept_on_grid() {
            assert!((6..13).all(|token| row.contains(&token)), "{row:?}");
        }
    }
}

/// Where a part of a picture is painted, its tokens stay. The counts are the plan's, unless more tokens stay than that.
#[test]
fn painted_tokens_stay() {
    let (toy, inputs, rows) = (Toy::new(58, 4, GRID), Inputs::new(59, 2), single(2));
    let kept = |painted: &[usize], protect: Protect, keep_multiple: usize| -> Vec<Vec<Vec<u32>>> {
        let config = AtEdmConfig { prune_layers: vec![0, 1], ratio: 0.5, protect, keep_multiple, ..config() };
        let recorder = MaskRecorder::shared();
        let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
        let mut method = config.build(&context, &Parts::with_builtins()).unwrap();
        let painted = (0..GRID.tokens()).map(|token| painted.contains(&token)).collect();
        let painted = Spots::new(GRID, painted).unwrap();
        method.begin_run(&Run { painted: Some(&painted), ..Run::new(1, 0, &rows) }).unwrap();
        run(&toy, &mut method, &inputs).unwrap();
        let masks = recorder.lock().unwrap().take();
        masks.iter().map(|(_, entry)| entry.kept_on_grid()).collect()
    };
    let counts = |kept: &[Vec<Vec<u32>>]| kept.iter().map(|rows| rows[0].len()).collect::<Vec<_>>();
    let free = kept(&[], Protect::Mask, 1);
    assert_eq!(counts(&free), [10, 5]);
    // tokens that each row prunes on its own
    let pruned: Vec<usize> = (0..20).filter(|&token| !free[1][0].contains(&(token as u32))).take(4).collect();
    assert_eq!(kept(&pruned, Protect::None, 1), free);
    let shielded = kept(&pruned, Protect::Mask, 1);
    assert_eq!(counts(&shielded), [10, 5]);
    for row in shielded.iter().flatten() {
        assert!(pruned.iter().all(|&token| row.contains(&(token as u32))), "{row:?} lacks one of {pruned:?}");
    }
    // more painted tokens than the plan keeps
    let many: Vec<usize> = (0..13).collect();
    let shielded = kept(&many, Protect::Mask, 1);
    assert_eq!(counts(&shielded), [13]);
    assert_eq!(shielded[0], [(0..13).collect::<Vec<u32>>(), (0..13).collect()]);
    assert_eq!(counts(&kept(&many, Protect::Mask, 8)), [16]);
    let all: Vec<usize> = (0..20).collect();
    assert_eq!(counts(&kept(&all, Protect::Mask, 1)), [0; 0]);
}

#[test]
fn tokens_of_a_mask_need_a_mask() {
    let mut method = build(&AtEdmConfig { protect: Protect::Mask, ..config() });
    let error = method.begin_run(&Run::new(1, 0, &single(1))).unwrap_err().to_string();
    assert!(error.starts_with("protect: expected none"), "{error}");
}

/// The input of a scorer that needs neither graph nor values.
fn unscored<'a>(site: &'a Site<'a>, hidden: &'a NdTensor) -> ScoreInput<'a, NdTensor> {
    ScoreInput {
        site,
        hidden,
        graph: None,
        first_vote: None,
        values: None,
        entry_tokens: site.tokens,
        positions: None,
        seed: 7,
    }
}

#[test]
fn random_scores_depend_on_their_own_row_alone() {
    let draw = |images: &[u64], change: &dyn Fn(&mut Site<'_>)| {
        let rows: Vec<Row> = images.iter().map(|&image| Row { image, branch: Branch::Single }).collect();
        let hidden = tensor(&vec![0.0; images.len() * 20], &[images.len(), 20, 1]);
        let mut site = site(GRID, &rows);
        change(&mut site);
        let input = unscored(&site, &hidden);
        values(&RandomScores.score(&input).unwrap().tokens)
    };
    let together = draw(&[3, 8], &|_| {});
    assert_eq!(together, [draw(&[3], &|_| {}), draw(&[8], &|_| {})].concat());
    assert!(together.iter().all(|v| (0.0..1.0).contains(v)));
    let alone = draw(&[3], &|_| {});
    assert_ne!(alone, draw(&[3], &|site| site.step = step(1, 2)));
    assert_ne!(alone, draw(&[3], &|site| site.layer = 1));
    assert_ne!(alone, draw(&[3], &|site| site.block.index = 1));
    let rows = single(2);
    let site = site(GRID, &rows);
    let hidden = tensor(&[0.0; 20], &[1, 20, 1]);
    let input = unscored(&site, &hidden);
    assert!(RandomScores.score(&input).is_err());
}

#[test]
fn comparison_scorers_are_their_norms() {
    let (toy, inputs) = (Toy::new(60, 2, GRID), Inputs::new(61, 1));
    let scores = |scorer: &str| {
        let config = AtEdmConfig { scorer: scorer.into(), recovery: "zero".into(), ..config() };
        let (_, masks) = recorded(&toy, &config, &inputs);
        let (_, entry) = masks.iter().next().unwrap();
        (entry.scores[0].clone(), entry.votes)
    };
    let mut watcher = Norms::default();
    run(&toy, &mut watcher, &inputs).unwrap();
    for (name, expected) in [("token-norm", &watcher.tokens), ("value-norm", &watcher.values)] {
        let (got, votes) = scores(name);
        assert_eq!(votes, 0);
        assert_eq!(got.len(), expected.len());
        for (g, e) in got.iter().zip(expected) {
            assert!((f64::from(*g) - e).abs() < 1e-6, "{name}: {g} against {e}");
        }
    }
    assert_eq!(scores("column-mean").1, 1);
}

/// Records what the norm scorers should see in the first layer.
#[derive(Default)]
struct Norms {
    tokens: Vec<f64>,
    values: Vec<f64>,
}

impl TokenReducer<NdTensor> for Norms {
    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
        let square = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>();
        match event {
            Event::Attended { sub: Sublayer::SelfAttention, values: v, .. } if site.layer == 0 => {
                let [_, heads, tokens, dim] = dims(v, "test")?;
                let all = values(v);
                let norms: Vec<f64> = all.chunks(dim).map(square).collect();
                let mean = |j: usize| (0..heads).map(|h| norms[h * tokens + j]).sum::<f64>() / heads as f64;
                self.values = (0..tokens).map(|j| mean(j).sqrt()).collect();
            }
            Event::After { sub: Sublayer::FeedForward, hidden, .. } if site.layer == 0 => {
                self.tokens =
                    values(hidden).chunks(hidden.shape()[2]).map(|row| square(row).sqrt()).collect();
            }
            _ => {}
        }
        Ok(Action::Continue)
    }
}

/// Top-k keeps the lower index among equal scores. Kept and pruned tokens form a partition.
#[test]
fn selection_is_a_partition_with_an_exact_tie_rule() {
    let mut random = Random(68);
    for round in 0..30 {
        let n = 1 + random.below(20);
        let kept = 1 + random.below(n);
        // There are few distinct values, so ties are common.
        let scores: Vec<f64> = (0..n).map(|_| (random.number() * 3.0).round()).collect();
        let partition = tensor(&scores, &[1, n]).split_top_k(kept).unwrap();
        let (keep, prune) = split_top_k(&scores, kept);
        assert_eq!(partition.kept.to_host().unwrap()[0], keep, "round {round}");
        assert_eq!(partition.pruned.to_host().unwrap()[0], prune, "round {round}");
        let mut all = [keep, prune].concat();
        all.sort_unstable();
        assert_eq!(all, (0..n as u32).collect::<Vec<_>>());
    }
    let device = NdDevice;
    assert!(atedm_core::Partition::<NdTensor>::from_kept(&[vec![1, 1]], 3, &device).is_err());
}

#[test]
fn before_ff_prunes_ahead_of_the_feed_forward() {
    let config = AtEdmConfig { prune_point: PrunePoint::BeforeFf, ..config() };
    let toy = Toy::new(69, 2, GRID);
    let method = build(&config);
    let shape = BlockShape::new(toy.block, 2, Grid::new(4, 5));
    let tokens = method.plan().tokens(&shape, StepOf { index: 0, total: 1 }).unwrap();
    assert_eq!((tokens[0].cross_attention, tokens[0].feed_forward), (20, 8));
}
