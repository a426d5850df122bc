//! Helpers that the tests share: places in a model, seeded numbers, and methods driven by hand.

#![allow(dead_code, clippy::unwrap_used)]
// helpers belong to the tests, too

use atedm_core::plugin::{
    Action, BlockId, BuildContext, Event, Grid, Reduction, Reductions, Registry, Row, Run, Scope, Site, Step,
    Sublayer, TokenReducer,
};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, Indices, Result, Tensor};
use serde_json::{Value, json};

/// The tokens that a reduction leaves, as rows on the host.
pub(crate) trait Places {
    fn places(&self) -> Vec<Vec<u32>>;
}

impl Places for dyn Reduction<NdTensor> {
    fn places(&self) -> Vec<Vec<u32>> {
        self.representatives().unwrap().unwrap().to_host().unwrap()
    }
}

/// A method on the reference backend.
pub(crate) type Method = Box<dyn TokenReducer<NdTensor>>;
/// The reduced part of a sublayer, and its reduction.
pub(crate) type Around = (Scope, Box<dyn Reduction<NdTensor>>);

/// The method `name` with these options.
pub(crate) fn build(name: &str, options: Value) -> Result<Method> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry)?;
    registry.build(name, &options, &BuildContext::default())
}

/// Adds to options that make a plan's outcome easy to follow: merge everywhere, draw nothing.
pub(crate) fn plain(more: Value) -> Value {
    let mut options = json!({"use_rand": false, "max_downsample": 8});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    options
}

/// `count` numbers in -1 .. 1 that depend only on the seed. All are exact in f32.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A tensor of these values.
pub(crate) fn tensor(values: &[f32], shape: &[usize], dtype: DType) -> NdTensor {
    NdTensor::from_f32(values, shape, dtype, &NdDevice).unwrap()
}

/// Seeded tokens `[batch, tokens, channels]`.
pub(crate) fn tokens(shape: [usize; 3], seed: u64, dtype: DType) -> NdTensor {
    tensor(&noise(shape.iter().product(), seed), &shape, dtype)
}

/// A layer of the middle block, on `grid`, at the first of 10 steps.
pub(crate) fn site(grid: Grid, rows: &[Row]) -> Site<'_> {
    Site {
        block: BlockId { level: 1, ..BlockId::whole() },
        layer: 0,
        depth: 4,
        step: Step { index: 0, total: 10, evaluation: 0, sigma: 1.0, timestep: 1000.0 },
        grid,
        tokens: grid.tokens(),
        protected: (0, 0),
        rows,
    }
}

/// `site` at another step, its time step evenly spaced: 1000, 900, …, 100.
pub(crate) fn at_step<'a>(site: &Site<'a>, index: usize) -> Site<'a> {
    let timestep = 1000.0 - 100.0 * index as f64;
    Site { step: Step { index, evaluation: index, timestep, ..site.step }, ..*site }
}

/// `site` at another time step.
pub(crate) fn at_time<'a>(site: &Site<'a>, timestep: f64) -> Site<'a> {
    Site { step: Step { timestep, ..site.step }, ..*site }
}

/// Begins a run of 10 steps.
pub(crate) fn begin(method: &mut Method, rows: &[Row], seed: u64) -> Result<()> {
    method.begin_run(&Run::new(10, seed, rows))
}

/// Enters a layer with this stream.
pub(crate) fn enter(method: &mut Method, site: &Site<'_>, hidden: &NdTensor) -> Result<()> {
    match method.on_event(site, Event::LayerEnter { hidden })? {
        Action::Continue => Ok(()),
        other => panic!("LayerEnter was answered by {other:?}"),
    }
}

/// The reduction of a sublayer in the layer that was entered.
pub(crate) fn before(
    method: &mut Method,
    site: &Site<'_>,
    sub: Sublayer,
    hidden: &NdTensor,
) -> Result<Option<Around>> {
    Ok(
        match method
            .on_event(site, Event::Before { sub, hidden, normed: hidden, reductions: Reductions::none() })?
        {
            Action::Around { scope, by } => Some((scope, by)),
            _ => None,
        },
    )
}

/// The reduction of self-attention in a layer that gets `hidden`.
pub(crate) fn plan(method: &mut Method, site: &Site<'_>, hidden: &NdTensor) -> Result<Option<Around>> {
    enter(method, site, hidden)?;
    before(method, site, Sublayer::SelfAttention, hidden)
}

/// For every token of row `row`: the lowest token whose value it shares after restoring.
pub(crate) fn labels(by: &dyn Reduction<NdTensor>, batch: usize, row: usize) -> Vec<usize> {
    let kept = by.kept();
    let numbers: Vec<f32> = (0..batch * kept).map(|i| (i % kept) as f32).collect();
    let taken = by.restore(&tensor(&numbers, &[batch, kept, 1], DType::F32)).unwrap();
    let count = taken.shape()[1];
    let taken = &taken.to_f32().unwrap()[row * count..(row + 1) * count];
    taken.iter().map(|value| taken.iter().position(|other| other == value).unwrap()).collect()
}

/// Rows of a tensor `[batch, n, channels]` as plain vectors of batch row `row`.
pub(crate) fn rows_of(x: &NdTensor, row: usize) -> Vec<Vec<f64>> {
    let shape = x.shape();
    let (n, channels) = (shape[1], shape[2]);
    let values: Vec<f64> = match x.dtype() {
        DType::F64 => {
            x.to_bytes().unwrap().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        }
        _ => x.to_f32().unwrap().into_iter().map(f64::from).collect(),
    };
    values[row * n * channels..(row + 1) * n * channels].chunks(channels).map(<[f64]>::to_vec).collect()
}

/// The cosine of two tokens; 0 for a zero token.
pub(crate) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let length = (dot(a, a) * dot(b, b)).sqrt();
    if length == 0.0 { 0.0 } else { dot(a, b) / length }
}

/// ToMe in plain loops, without drawing. It returns each token's destination (the token itself if it is not merged).
pub(crate) fn naive_tome(rows: &[Vec<f64>], grid: Grid, (sx, sy): (usize, usize), r: usize) -> Vec<usize> {
    let is_destination = |i: usize| {
        let (y, x) = (i / grid.width, i % grid.width);
        y % sy == 0 && x % sx == 0 && y + sy <= grid.height && x + sx <= grid.width
    };
    let destinations: Vec<usize> = (0..rows.len()).filter(|&i| is_destination(i)).collect();
    let mut pairs = Vec::new();
    for source in (0..rows.len()).filter(|&i| !is_destination(i)) {
        let mut best = (f64::NEG_INFINITY, 0);
        for &destination in &destinations {
            let similarity = cosine(&rows[source], &rows[destination]);
            if similarity > best.0 {
                best = (similarity, destination);
            }
        }
        pairs.push((best.0, source, best.1));
    }
    // The sort is stable, so among equals the lower source comes first.
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut into: Vec<usize> = (0..rows.len()).collect();
    for &(_, source, destination) in pairs.iter().take(r) {
        into[source] = destination;
    }
    into
}

/// The lowest member of each token's group.
pub(crate) fn lowest(into: &[usize]) -> Vec<usize> {
    into.iter().map(|goal| into.iter().position(|other| other == goal).unwrap()).collect()
}

/// Asserts that two lists agree within the rounding of f32, or of f64 if `exact`.
#[track_caller]
pub(crate) fn near(got: &[f64], expected: &[f64], exact: bool) {
    assert_eq!(got.len(), expected.len());
    let bound = if exact { 1e-12 } else { 1e-5 };
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= bound, "{i}: {g} is not {e}");
    }
}
