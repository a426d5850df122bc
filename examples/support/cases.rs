//! Cases of a fixture that `tests/python/joint_reference.py` computed, and what the tests of the examples share.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use atedm_candle::CandleTensor;
use atedm_core::plugin::{BuildContext, MaskKey, MaskRecorder, Registry, Row, Run, Step, TokenReducer};
use candle_core::{DType, Device, Result, Tensor};
use serde::Deserialize;
use serde_json::Value;

/// The largest relative L2 distance from a reference, in f32.
pub(crate) const TOLERANCE: f64 = 2e-5;

/// When the fixtures' evaluation is.
pub(crate) const STEP: Step = Step { index: 40, total: 50, evaluation: 40, sigma: 1.0, timestep: 200.0 };

/// A method as a test holds it.
pub(crate) type Method = Box<dyn TokenReducer<CandleTensor>>;

/// One case of `cases.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) options: Value,
    /// Where tokens are reduced: `BLOCK.LAYER`.
    pub(crate) reduced: Vec<String>,
}

/// The fixture's cases with their tensors.
pub(crate) struct Cases {
    pub(crate) all: Vec<Case>,
    expected: HashMap<String, Tensor>,
}

impl Cases {
    /// Reads `cases.json` and `expected.safetensors` of a fixture's folder.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            cases: Vec<Case>,
        }
        let file: File = serde_json::from_slice(&std::fs::read(folder.join("cases.json"))?).unwrap();
        let expected = candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu)?;
        Ok(Self { all: file.cases, expected })
    }

    /// Runs a case, checks which tokens it kept, and returns how far its output is from the reference.
    pub(crate) fn run(
        &self,
        case: &Case,
        forward: impl FnOnce(&mut Method) -> Result<Tensor>,
    ) -> Result<f64> {
        let expected = &self.expected[&format!("{}.output", case.name)];
        let recorder = MaskRecorder::shared();
        let mut method = build(&case.method, &case.options, expected.dim(0)?, Some(recorder.clone()));
        let output = forward(&mut method)?;
        let masks = recorder.lock().unwrap().take();
        assert_eq!(masks.len(), case.reduced.len(), "{}", case.name);
        for place in &case.reduced {
            let (block, layer) = place.rsplit_once('.').unwrap();
            let (step, evaluation) = (STEP.index, STEP.evaluation);
            let key = MaskKey { step, evaluation, block: block.into(), layer: layer.parse().unwrap() };
            let kept = self.expected[&format!("{}.{place}.kept", case.name)].to_vec2::<u32>()?;
            let ours = masks.get(&key).unwrap_or_else(|| panic!("{}: nothing kept at {place}", case.name));
            assert_eq!(ours.kept, kept, "{}: {place}", case.name);
        }
        relative(&output, expected)
    }
}

/// A method by its name, for a batch of `rows` images.
pub(crate) fn build(
    name: &str,
    options: &Value,
    rows: usize,
    recorder: Option<Arc<Mutex<MaskRecorder>>>,
) -> Method {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    let context =
        BuildContext { observer: recorder.map(|recorder| recorder as _), ..BuildContext::default() };
    let mut method = registry.build(name, options, &context).unwrap();
    method.begin_run(&Run { first: STEP.index, ..Run::new(STEP.total, 0, &Row::singles(rows)) }).unwrap();
    method.begin_step(&STEP, &Row::singles(rows)).unwrap();
    method
}

/// The L2 distance of `a` from `b`, relative to the size of `b`.
pub(crate) fn relative(a: &Tensor, b: &Tensor) -> Result<f64> {
    let norm = |x: &Tensor| x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>();
    Ok((norm(&(a - b)?)? / norm(b)?).sqrt())
}

/// The same numbers, to the last bit.
pub(crate) fn assert_same(a: &Tensor, b: &Tensor, what: &str) -> Result<()> {
    let bits = |x: &Tensor| {
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        Ok::<_, candle_core::Error>(values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    assert_eq!(bits(a)?, bits(b)?, "{what}");
    Ok(())
}

/// Lines of code (no comments, no blanks) that one file has and another does not.
pub(crate) fn added(before: &str, after: &str) -> usize {
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
