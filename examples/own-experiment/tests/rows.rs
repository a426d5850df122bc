//! The example on the model that comes with the program.

use std::path::Path;

use atedm_experiment::{Failure, Row};
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

#[test]
fn what_is_wrong_is_named() {
    let failure = away_from_the_mean(Path::new("no-such-folder"), 2).unwrap_err();
    assert!(matches!(&failure, Failure::Run(reason) if reason.contains("no-such-folder")), "{failure}");
}
