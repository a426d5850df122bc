//! Compares ToMe's merge sets with those of the real tomesd 0.1.3, on random metrics of odd and even sizes.
//!
//! `tests/fixtures/tomesd_sets.jsonl` holds 48 cases. To make more:
//!
//! ```text
//! target/python/bin/pip install --no-deps tomesd==0.1.3
//! target/python/bin/python tests/python/tomesd_reference.py target/tomesd.jsonl --count 1000
//! ATEDM_TOMESD_SETS=$PWD/target/tomesd.jsonl cargo test -p atedm-tests --test tomerge_sets -- --nocapture
//! ```

// Helpers outside `#[test]` functions are tests, too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use atedm_conformance::host::Draws;
use atedm_core::plugin::{
    Action, BlockId, BuildContext, Event, Grid, Reductions, Registry, Row, Run, Site, Step, Sublayer,
};
use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{Backend, DType, DeviceOf, Tensor};
use serde::Deserialize;
use serde_json::json;

/// If choices are closer than this, rounding decides.
const CLEAR: f64 = 1e-6;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    number: u64,
    height: usize,
    width: usize,
    channels: usize,
    batch: usize,
    sx: usize,
    sy: usize,
    r: usize,
    torch_seed: Option<u64>,
    margin: f64,
    labels: Vec<Vec<usize>>,
}

impl Case {
    /// The metric `[batch, tokens, channels]`, made in the same way as in the script.
    fn metric(&self) -> Vec<f32> {
        let mut draws = Draws::new(self.number);
        // The sizes and options are drawn first.
        for _ in 0..7 + usize::from(self.torch_seed.is_some()) {
            draws.bits();
        }
        let count = self.batch * self.height * self.width * self.channels;
        (0..count).map(|_| (draws.bits() >> 48) as f32 / 32768.0 - 1.0).collect()
    }

    /// For each row and token, the lowest token that it is merged with.
    fn merged<B: Backend>(&self, device: &DeviceOf<B>) -> Vec<Vec<usize>> {
        let tokens = self.height * self.width;
        let mut registry = Registry::<B::Tensor>::with_builtins();
        atedm_tomerge::register(&mut registry).unwrap();
        let options = json!({
            // Half a token more, so that the floor is `r` for any rounding.
            "ratio": (self.r as f64 + 0.5) / tokens as f64,
            "sx": self.sx, "sy": self.sy, "use_rand": self.torch_seed.is_some(),
        });
        let mut method = registry.build("tome", &options, &BuildContext::default()).unwrap();
        let rows = Row::singles(self.batch);
        method.begin_run(&Run::new(1, self.torch_seed.unwrap_or(0), &rows)).unwrap();
        let site = Site {
            block: BlockId::whole(),
            layer: 0,
            depth: 1,
            step: Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 },
            grid: Grid::new(self.height, self.width),
            tokens,
            protected: (0, 0),
            rows: &rows,
        };
        let shape = [self.batch, tokens, self.channels];
        let hidden = B::Tensor::from_f32(&self.metric(), &shape, DType::F32, device).unwrap();
        assert!(matches!(
            method.on_event(&site, Event::LayerEnter { hidden: &hidden }),
            Ok(Action::Continue)
        ));
        let before = Event::Before {
            sub: Sublayer::SelfAttention,
            hidden: &hidden,
            normed: &hidden,
            reductions: Reductions::none(),
        };
        let plan = match method.on_event(&site, before).unwrap() {
            Action::Around { by, .. } => by,
            _ => return vec![(0..tokens).collect(); self.batch],
        };
        let numbers: Vec<f32> = (0..self.batch).flat_map(|_| (0..plan.kept()).map(|i| i as f32)).collect();
        let reduced =
            B::Tensor::from_f32(&numbers, &[self.batch, plan.kept(), 1], DType::F32, device).unwrap();
        let taken = plan.restore(&reduced).unwrap().to_f32().unwrap();
        let label = |row: &[f32], i: usize| row.iter().position(|&other| other == row[i]).unwrap();
        taken.chunks_exact(tokens).map(|row| (0..tokens).map(|i| label(row, i)).collect()).collect()
    }
}

fn check<B: Backend>(path: &Path, device: &DeviceOf<B>) -> (usize, usize) {
    let text = std::fs::read_to_string(path).unwrap();
    let (mut same, mut unclear) = (0, 0);
    for line in text.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        if case.margin <= CLEAR {
            unclear += 1;
            continue;
        }
        assert_eq!(case.merged::<B>(device), case.labels, "{} case {}: {case:?}", B::NAME, case.number);
        same += 1;
    }
    println!("{}: {same} merge sets as tomesd's, {unclear} left to rounding", B::NAME);
    (same, unclear)
}

#[test]
fn the_fixture() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/tomesd_sets.jsonl");
    assert!(check::<Reference32>(&path, &NdDevice).0 >= 40);
    assert!(check::<atedm_candle::Candle>(&path, &atedm_candle::Device::Cpu).0 >= 40);
    #[cfg(feature = "tch")]
    assert!(check::<atedm_tch::Torch>(&path, &atedm_tch::Device::Cpu).0 >= 40);
}

#[test]
fn a_file_of_ones_own() {
    match std::env::var_os("ATEDM_TOMESD_SETS") {
        Some(path) => {
            let (same, unclear) = check::<Reference32>(Path::new(&path), &NdDevice);
            assert!(same > 50 * unclear, "hardly any clear case");
        }
        None => println!("ATEDM_TOMESD_SETS is not set: only the fixture was compared"),
    }
}
