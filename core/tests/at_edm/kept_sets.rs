//! Kept sets that serve several evaluations.

use atedm_core::Result;
use atedm_core::at_edm::recovery::ZeroPadding;
use atedm_core::at_edm::{AtEdmConfig, Parts, RecoveryInput, TokenRecovery};
use atedm_core::plugin::schedule::{ScheduleEntry, ScheduleTable};
use atedm_core::plugin::{GuidanceMasks, MaskEntry, MaskSet, Reduction, Row, Stage, Step, Tau};
use atedm_core::reference::NdTensor;

use crate::method::{GRID, Inputs, config};
use crate::support::{block, single, step};
use crate::toy::{Asked, Toy};
use crate::watched::{Seen, Watched, image, warm};

use Asked::{FirstVote, Graph, Nothing};

fn rescored(every: usize) -> AtEdmConfig {
    AtEdmConfig { rescore_every: every, ..config() }
}

/// Between scorings nothing is requested of attention. Sets and donors stay while the values change.
#[test]
fn a_kept_set_serves_n_evaluations() {
    let toy = Toy::new(91, 2, GRID);
    let steps: Vec<Inputs> = (0..7).map(|i| Inputs::new(100 + i, 2)).collect();
    let inputs: Vec<&Inputs> = steps.iter().collect();
    let seen = Watched::new(&rescored(3)).steps(&toy, &inputs);
    let asked: Vec<Asked> = seen.iter().map(|seen| seen.asked).collect();
    assert_eq!(asked, [Graph, Nothing, Nothing, FirstVote, Nothing, Nothing, FirstVote]);
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
        // At the exit a pruned token equals its donor. The donor comes from the scoring step.
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

/// What a method requests of the first layer over these (step, rows) of one toy.
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
    // A set that is too old after a pause, and a run that starts again.
    assert_eq!(
        asked_over(&rescored(3), &toy, &at(&[0, 1, 4, 5, 0])),
        [Graph, Nothing, FirstVote, Nothing, FirstVote]
    );
    // The same evaluation again and again: each set serves three times.
    assert_eq!(asked_over(&rescored(3), &toy, &at(&[5; 4])), [Graph, Nothing, Nothing, FirstVote]);
    // Another number of kept tokens.
    let falling =
        ScheduleEntry { steps: [Tau::Steps(0), Tau::Steps(2)], blocks: vec!["*".into()], ratio: 0.3 };
    let table = AtEdmConfig {
        schedule: "table".into(),
        table: Some(ScheduleTable { entries: vec![falling] }),
        ..rescored(9)
    };
    assert_eq!(asked_over(&table, &toy, &at(&[0, 1, 2, 3])), [Graph, Nothing, FirstVote, Nothing]);
    // The blocks that the schedule spares in early steps.
    let edge = Toy { block: block(Stage::Down, 0, 0, 2, 0), ..Toy::new(92, 2, GRID) };
    let early = AtEdmConfig { tau: Tau::Steps(2), rescore_every: 2, ..AtEdmConfig::default() };
    assert_eq!(
        asked_over(&early, &edge, &at(&[0, 1, 2, 3, 4])),
        [Nothing, Nothing, Graph, Nothing, FirstVote]
    );
    // Other rows, or the same rows in another order. Two batches that alternate each have their own sets.
    let turns = |calls: &[(usize, &[u64])]| -> Vec<(Step, Vec<Row>)> {
        let rows = |images: &[u64]| images.iter().map(|&i| image(i)).collect();
        calls.iter().map(|&(index, images)| (step(index, 50), rows(images))).collect()
    };
    let calls = turns(&[(0, &[0, 1]), (1, &[1, 0]), (2, &[1, 0]), (3, &[1]), (4, &[1])]);
    assert_eq!(asked_over(&rescored(9), &toy, &calls), [Graph, FirstVote, Nothing, FirstVote, Nothing]);
    let calls = turns(&[(0, &[0]), (0, &[1]), (1, &[0]), (1, &[1]), (2, &[0]), (2, &[1])]);
    assert_eq!(
        asked_over(&rescored(2), &toy, &calls),
        [Graph, FirstVote, Nothing, Nothing, FirstVote, FirstVote]
    );
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
    assert_eq!(seen.asked, FirstVote);
    assert!((12..15).all(|token| seen.entry().kept[0].contains(&token)));
}

/// The set of a later pruning layer becomes invalid once an earlier layer keeps other tokens.
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
    for recovery in ["similarity", "update", "direct", "zero", "bicubic"] {
        for prune_layers in [vec![0], vec![0, 1]] {
            let config = AtEdmConfig { recovery: recovery.into(), prune_layers, ratio: 0.4, ..rescored(2) };
            let recorded = Watched::new(&config).steps(&toy, &inputs);
            let whole = |seen: &[Seen]| -> MaskSet {
                let entries = seen.iter().flat_map(|seen| seen.masks.iter());
                entries.map(|(key, entry)| (key.clone(), entry.clone())).collect()
            };
            let masks = whole(&recorded);
            let replayed =
                Watched::with(&config, &Parts::with_builtins(), Some(masks.clone())).steps(&toy, &inputs);
            for (i, (replayed, recorded)) in replayed.iter().zip(&recorded).enumerate() {
                assert_eq!(replayed.output, recorded.output, "{recovery}, step {i}");
                assert_eq!(replayed.entry().kept, recorded.entry().kept);
                // Update copy holds tokens of its own evaluation, so it asks again each time.
                let graph = recovery == "update" || (recovery == "similarity" && i % 2 == 0);
                assert_eq!(replayed.asked, if graph { Graph } else { Nothing });
            }
            // An edited set is used as it is, with the data of its own graph.
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
                Watched::with(config, &Parts::with_builtins(), Some(edited.clone())).steps(&toy, &inputs[..2])
            };
            let got = replay(&config);
            let expected = edited.iter().find(|(key, _)| key.step == 1).unwrap().1;
            assert_eq!(got[1].entry().kept, expected.kept);
            // Later layers must score, too: their old sets would belong to other tokens.
            assert_eq!(got[1].output, replay(&AtEdmConfig { rescore_every: 1, ..config.clone() })[1].output);
            assert_eq!(got[1].asked == Graph, ["similarity", "update"].contains(&recovery));
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
            assert_eq!(seen.asked, [Graph, Nothing, FirstVote, Nothing][i]);
        }
    }
}

/// A recovery whose plan belongs to its own graph gets a graph at every evaluation.
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
    let mut parts = Parts::with_builtins();
    parts.register_recovery("fussy", |_| Ok(Box::new(Fussy))).unwrap();
    let toy = Toy::new(96, 2, GRID);
    let steps: Vec<Inputs> = (0..3).map(|i| Inputs::new(150 + i, 1)).collect();
    let inputs: Vec<&Inputs> = steps.iter().collect();
    let config = AtEdmConfig { recovery: "fussy".into(), ..rescored(3) };
    let seen = Watched::with(&config, &parts, None).steps(&toy, &inputs);
    assert!(seen.iter().all(|seen| seen.asked == Graph));
    assert!(seen.iter().all(|other| other.entry().kept == seen[0].entry().kept));
}
