//! The model after: whole where nothing is reduced, else as the dense references of `make_fixture.py` have it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use atedm_conformance::host::Array;
use atedm_conformance::tolerance::relative_l2;
use atedm_core::plugin::{
    Action, BlockId, BlockShape, BuildContext, Event, Grid, MaskRecorder, MaskSet, ModelShape, Options,
    Reduction, Registry, Row, Run, Site, Step, TokenReducer, Unpruned,
};
use atedm_core::{AttentionOps, Backend, DeviceOf, Error, Indices, Result, Tensor};
use example_wan_like::{plain, reduced};
use serde_json::{Value, json};

use crate::golden::{Golden, array};
use crate::plain::assert_case;

/// Late enough for every schedule.
const STEP: Step = Step { index: 40, total: 50, evaluation: 40, sigma: 1.0, timestep: 200.0 };

type Method<T> = Box<dyn TokenReducer<T>>;

fn registry<T: AttentionOps>() -> Registry<T> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    registry
}

/// A method in the step [`STEP`] of a run, and what it will record.
fn method<T: AttentionOps>(name: &str, options: &Value) -> (Method<T>, Arc<Mutex<MaskRecorder>>) {
    let recorder = MaskRecorder::shared();
    let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
    let mut method = registry().build(name, options, &context).unwrap();
    let rows = Row::singles(2);
    method.begin_run(&Run::new(STEP.total, 0, &rows)).unwrap();
    method.begin_step(&STEP, &rows).unwrap();
    (method, recorder)
}

/// The prediction of the tiny model with a method.
fn predict<B: Backend>(device: &DeviceOf<B>, method: &mut dyn TokenReducer<B::Tensor>) -> Result<B::Tensor> {
    let (golden, rows) = (Golden::open::<B>(device), Row::singles(2));
    B::inference(|| reduced::forward(&golden.model, &golden.input(), (method, &STEP, &rows)))
}

pub(crate) fn at_ratio_zero_nothing_changes<B: Backend>(device: &DeviceOf<B>) {
    let golden = Golden::open::<B>(device);
    let before = B::inference(|| plain::forward(&golden.model, &golden.input())).unwrap().to_f32().unwrap();
    let whole = predict::<B>(device, &mut Unpruned).unwrap();
    assert_eq!(whole.to_f32().unwrap(), before, "the identity");
    for name in ["at-edm", "tome"] {
        let (mut method, _) = method(name, &json!({"ratio": 0.0}));
        let prediction = predict::<B>(device, &mut *method).unwrap();
        assert_eq!(prediction.to_f32().unwrap(), before, "{name}");
    }
}

/// Asserts that the kept sets are those of a case.
fn assert_kept(masks: &MaskSet, case: &str, prunings: usize) {
    assert_eq!(masks.len(), prunings, "{case}");
    for (layer, (key, entry)) in masks.iter().enumerate() {
        assert_eq!(key.layer, layer, "{case}");
        let kept: Vec<f64> = entry.kept.iter().flatten().map(|&i| f64::from(i)).collect();
        assert_eq!(kept, array(&format!("{case}.kept.{layer}")).data, "{case}, layer {layer}");
    }
}

/// The cases of AT-EDM: name, options and how often a forward pass prunes. In the second, layer 1 starts from what layer
/// 0 kept, so that the places of both are composed.
fn at_edm_cases() -> [(&'static str, Value, usize); 2] {
    [("at-edm", json!({}), 1), ("at-edm-twice", json!({"ratio": 0.4, "prune_layers": [0, 1]}), 2)]
}

pub(crate) fn at_edm_is_the_dense_reference<B: Backend>(device: &DeviceOf<B>) {
    for (case, options, prunings) in at_edm_cases() {
        let (mut method, recorder) = method("at-edm", &options);
        let prediction = predict::<B>(device, &mut *method).unwrap();
        assert_kept(recorder.lock().unwrap().masks(), case, prunings);
        assert_case(&prediction, case, B::NAME);
    }
}

/// Without draws, the destinations are the first tokens of every cell of every frame.
fn tome() -> Value {
    json!({"ratio": 0.5, "use_rand": false})
}

pub(crate) fn tome_is_the_dense_reference<B: Backend>(device: &DeviceOf<B>) {
    let (mut method, _) = method("tome", &tome());
    assert_case(&predict::<B>(device, &mut *method).unwrap(), "tome", B::NAME);
}

/// A method whose tokens say that they stand in the first places of the stream: what a model takes for true that cuts its
/// tables off instead of gathering.
struct Misplaced<T>(Method<T>);

#[derive(Debug)]
struct MisplacedReduction<T>(Box<dyn Reduction<T>>);

impl<T: AttentionOps> TokenReducer<T> for Misplaced<T> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(self.0.as_mut())
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        Ok(match self.0.on_event(site, event)? {
            Action::UntilExit(by) => Action::UntilExit(Box::new(MisplacedReduction(by))),
            Action::Around { scope, by } => Action::Around { scope, by: Box::new(MisplacedReduction(by)) },
            other => other,
        })
    }
}

impl<T: AttentionOps> Reduction<T> for MisplacedReduction<T> {
    fn kept(&self) -> usize {
        self.0.kept()
    }
    fn shrink(&self, full: &T) -> Result<T> {
        self.0.shrink(full)
    }
    fn restore(&self, reduced: &T) -> Result<T> {
        self.0.restore(reduced)
    }
    fn positions(&self) -> Option<Result<T::Indices>> {
        self.0.positions().map(|true_ones| {
            let true_ones = true_ones?;
            let (batch, kept) = true_ones.dims();
            T::Indices::from_host(&vec![(0..kept as u32).collect(); batch], &true_ones.device())
        })
    }
    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(Self(self.0.clone_box()))
    }
}

/// That the dense references would notice: without its true places no case passes.
pub(crate) fn positions_that_are_not_gathered_are_noticed<B: Backend>(device: &DeviceOf<B>) {
    let cases = at_edm_cases().map(|(case, options, _)| (case, "at-edm", options));
    for (case, name, options) in cases.into_iter().chain([("tome", "tome", tome())]) {
        let prediction = predict::<B>(device, &mut Misplaced(method(name, &options).0)).unwrap();
        let off =
            relative_l2(&Array::read(&prediction).unwrap().data, &array(&format!("{case}.output")).data);
        println!("{case} with places that are not gathered on {}: relative L2 {off:.1e}", B::NAME);
        assert!(off > 1e-3, "{case}: relative L2 {off:.1e} with wrong places");
    }
}

/// ToMA's tokens are mixtures of many, so that no single angle is right for them.
pub(crate) fn a_dense_mixture_is_refused<B: Backend>(device: &DeviceOf<B>) {
    let (mut method, _) = method("toma", &json!({"ratio": 0.5, "num_tiles": 4}));
    let error = predict::<B>(device, &mut *method).unwrap_err();
    assert!(matches!(error, Error::Plugin { .. }), "{error}");

    let mut model = ModelShape::new(vec![BlockShape::new(BlockId::whole(), 4, Grid::of_frames(3, 4, 6))], 50);
    model.needs_positions = true;
    let registry = registry::<B::Tensor>();
    let catalogue = registry.catalogue();
    let describe =
        |name: &str| catalogue.describe(name, &Options::new(), &catalogue.facts().of_model(&model));
    let error = describe("toma").unwrap_err().to_string();
    assert!(error.contains("toma"), "{error}");
    for name in ["at-edm", "tome", "todo", "sito"] {
        describe(name).unwrap();
    }
}

/// Lines of code (no comments, no blanks) that one file has and another does not.
fn added(before: &str, after: &str) -> usize {
    let code = |text: &str| {
        let mut lines: HashMap<String, usize> = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
            *lines.entry(line.to_string()).or_default() += 1;
        }
        lines
    };
    let before = code(before);
    code(after).iter().map(|(line, n)| n.saturating_sub(before.get(line).copied().unwrap_or(0))).sum()
}

#[test]
fn at_most_twenty_five_lines_know_of_us() {
    let lines = added(include_str!("../../src/plain.rs"), include_str!("../../src/reduced.rs"));
    println!("{lines} lines added to the forward pass");
    assert!((1..=25).contains(&lines), "{lines} lines");
}
