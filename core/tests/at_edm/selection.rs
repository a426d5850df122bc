//! Selectors: what a draw follows, and what it depends on.

use atedm_core::at_edm::TokenSelector;
use atedm_core::at_edm::selection::{Sample, TopK};
use atedm_core::plugin::{BuildContext, Grid, Registry, Run, Site};
use atedm_core::reference::NdTensor;
use atedm_core::{Error, Indices};

use serde_json::json;

use crate::support::{single, site, step, tensor};

/// The kept tokens of every batch row with `seed`.
fn kept(sample: Sample, seed: u64, site: &Site<'_>, scores: &NdTensor, count: usize) -> Vec<Vec<u32>> {
    let mut sample = sample;
    TokenSelector::<NdTensor>::begin_run(&mut sample, &Run::new(100, seed, site.rows)).unwrap();
    sample.select(site, scores, count).unwrap().kept.to_host().unwrap()
}

/// How often each of three tokens is the one that stays, over many evaluations.
fn shares(temperature: f64, scores: &[f64; 3]) -> [f64; 3] {
    let (rows, scores, draws) = (single(1), tensor(scores, &[1, 3]), 4000);
    let mut counts = [0; 3];
    for index in 0..draws {
        let here = Site { step: step(index, draws), ..site(Grid::new(1, 3), &rows) };
        counts[kept(Sample::new(temperature).unwrap(), 7, &here, &scores, 1)[0][0] as usize] += 1;
    }
    counts.map(|count: usize| count as f64 / draws as f64)
}

#[test]
fn samples_follow_the_scores() {
    // The standard deviation of a share over 4000 draws is below 0.008.
    let close = |got: [f64; 3], expected: [f64; 3]| {
        assert!(
            got.iter().zip(&expected).all(|(got, share)| (got - share).abs() < 0.03),
            "{got:?}, {expected:?}"
        );
    };
    // At temperature 1 in proportion to the scores, whatever their sum; at 1/2 in proportion to their squares.
    close(shares(1.0, &[0.5, 0.3, 0.2]), [0.5, 0.3, 0.2]);
    close(shares(1.0, &[50.0, 30.0, 20.0]), [0.5, 0.3, 0.2]);
    close(shares(0.5, &[0.5, 0.3, 0.2]), [25.0 / 38.0, 9.0 / 38.0, 4.0 / 38.0]);
    close(shares(1e9, &[0.5, 0.3, 0.2]), [1.0 / 3.0; 3]);
    close(shares(1e-3, &[0.2, 0.3, 0.5]), [0.0, 0.0, 1.0]);
    close(shares(1.0, &[0.5, 0.0, -1.0]), [1.0, 0.0, 0.0]);
}

#[test]
fn a_draw_depends_on_seed_and_place_alone() {
    let grid = Grid::new(5, 8);
    let row: Vec<f64> = (0..40).map(|i| 1.0 + f64::from(i % 7)).collect();
    let (two, one) = (single(2), single(1));
    let scores = tensor(&row.repeat(2), &[2, 40]);
    let here = site(grid, &two);
    let sample = Sample::default();
    let both = kept(sample, 3, &here, &scores, 15);
    assert_eq!(both[0], both[1], "equal scores, unequal tokens");
    assert_eq!(kept(sample, 3, &here, &scores, 15), both);
    assert_eq!(kept(sample, 3, &site(grid, &one), &tensor(&row, &[1, 40]), 15)[0], both[0]);
    let elsewhere = [Site { step: step(1, 9), ..here }, Site { layer: 1, ..site(grid, &two) }];
    for there in &elsewhere {
        assert_ne!(kept(sample, 3, there, &scores, 15), both);
    }
    assert_ne!(kept(sample, 4, &site(grid, &two), &scores, 15), both);
}

/// The method raises the scores of protected tokens above all others.
#[test]
fn protected_tokens_stay_at_every_temperature() {
    let rows = single(1);
    let scores: Vec<f64> = (0..30).map(|i| if i % 10 == 4 { 1e30 } else { 1e-3 * f64::from(i) }).collect();
    let scores = tensor(&scores, &[1, 30]);
    for temperature in [0.01, 1.0, 1e9] {
        for seed in 0..50 {
            let kept =
                kept(Sample::new(temperature).unwrap(), seed, &site(Grid::new(5, 6), &rows), &scores, 6);
            assert!([4, 14, 24].iter().all(|token| kept[0].contains(token)), "{temperature}: {kept:?}");
        }
    }
}

#[test]
fn a_cold_draw_is_top_k() {
    let rows = single(2);
    let here = site(Grid::new(4, 6), &rows);
    let scores: Vec<f64> = (0..48).map(|i| 1.0 + f64::from(i * 31 % 47)).collect();
    let scores = tensor(&scores, &[2, 24]);
    let top = TopK.select(&here, &scores, 9).unwrap().kept.to_host().unwrap();
    assert_eq!(kept(Sample::new(1e-4).unwrap(), 5, &here, &scores, 9), top);
}

#[test]
fn a_draw_knows_its_options() {
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = Sample::new(temperature).unwrap_err().to_string();
        assert!(error.starts_with("selector_options.temperature: "), "{error}");
    }
    let registry = Registry::<NdTensor>::with_builtins();
    let build = |selector| {
        registry.build("at-edm", &json!({ "selector": selector }), &BuildContext::default()).map(|_| ())
    };
    build(json!("sample")).unwrap();
    build(json!({"name": "sample", "temperature": 0.5})).unwrap();
    for selector in [json!({"name": "sample", "temperature": 0}), json!({"name": "sample", "heat": 1})] {
        let error = build(selector).unwrap_err().to_string();
        assert!(error.starts_with("selector_options"), "{error}");
    }
    let rows = single(1);
    let scores = tensor(&[1.0, f64::NAN, 2.0, 3.0], &[1, 4]);
    let fault = Sample::default().select(&site(Grid::new(2, 2), &rows), &scores, 2);
    assert!(matches!(fault, Err(Error::NotFinite { .. })), "{fault:?}");
}
