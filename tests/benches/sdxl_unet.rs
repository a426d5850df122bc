//! Runs SD-XL's real U-Net with generated weights in f32, on Candle's CPU backend. It compares the rate of a whole
//! evaluation with that of Candle's own 2048² matrix product. It compares its time with that of candle-transformers'
//! U-Net on the same weights.
//!
//! ```text
//! cargo bench -p atedm-tests --bench sdxl_unet                      12 GB of memory, some minutes
//!     -- --size 512 --batch 1 --rounds 3                            the defaults
//!     -- --peak                                                     1024 px, batch 2: peak memory only
//! ```
//!
//! Rounds interleave the three, and the bench prints medians, so a busy machine slows all of them alike. FLOPs are 2 ×
//! MAC by formula. candle-transformers' U-Net lacks SD-XL's added embedding and uses another GELU. So only its time is
//! compared, never its output.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use atedm_candle::{Candle, CandleTensor, Device};
use atedm_conformance::host::Draws;
use atedm_core::at_edm::{AtEdmConfig, Parts};
use atedm_core::plugin::{BuildContext, Grid, Row, Run, Step, TokenReducer, Unpruned};
use atedm_core::{Backend, DType, Result, WeightSource, Weights};
use atedm_experiment::bench::machine::peak_bytes;
use atedm_sdxl::flops;
use atedm_sdxl::unet::{UNet, UNetConfig, UNetInput};
use atedm_sdxl::weights::RandomSource;
use candle_nn::VarBuilder;
use candle_transformers::models::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};

/// Side of the square matrices whose product gives the machine's rate.
const MATRIX: usize = 2048;

/// Generated weights. They keep what they gave, so that another model can be built on the same storage.
struct Shared {
    source: RandomSource<Device>,
    given: Rc<RefCell<HashMap<String, candle_core::Tensor>>>,
}

impl WeightSource<CandleTensor> for Shared {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<CandleTensor> {
        let tensor: CandleTensor = self.source.tensor(name, shape)?;
        self.given.borrow_mut().insert(name.to_string(), (&tensor).into());
        Ok(tensor)
    }

    fn contains(&self, name: &str) -> bool {
        WeightSource::<CandleTensor>::contains(&self.source, name)
    }

    fn origin(&self) -> PathBuf {
        "generated".into()
    }
}

#[derive(Debug, Clone, Copy)]
struct Options {
    size: usize,
    batch: usize,
    rounds: usize,
    peak: bool,
}

impl Options {
    fn from_args() -> Self {
        let mut options = Self { size: 512, batch: 1, rounds: 3, peak: false };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|n| n.parse().ok()).expect("a number");
            match arg.as_str() {
                "--size" => options.size = number(),
                "--batch" => options.batch = number(),
                "--rounds" => options.rounds = number(),
                "--peak" => options.peak = true,
                "--bench" => {}
                other => panic!("expected --size N, --batch N, --rounds N or --peak, got {other:?}"),
            }
        }
        if options.peak {
            (options.size, options.batch) = (1024, 2);
        }
        options
    }

    fn latents(&self) -> Grid {
        Grid::new(self.size / 8, self.size / 8)
    }
}

/// Inputs of one evaluation.
struct Inputs {
    latents: CandleTensor,
    text: CandleTensor,
    pooled: CandleTensor,
    time_ids: Vec<[f32; 6]>,
    rows: Vec<Row>,
}

impl Inputs {
    fn new(config: &UNetConfig, options: Options) -> Result<Self> {
        let mut draws = Draws::new(1);
        let mut of = |shape: &[usize]| draws.normals(shape).upload(DType::F32, &Device::Cpu);
        let (batch, side) = (options.batch, options.size as f32);
        let Grid { height, width, .. } = options.latents();
        Ok(Self {
            latents: of(&[batch, 4, height, width])?,
            text: of(&[batch, 77, config.text_channels()])?,
            pooled: of(&[batch, config.pooled_channels()])?,
            time_ids: vec![[side, side, 0.0, 0.0, side, side]; batch],
            rows: Row::singles(batch),
        })
    }

    fn evaluate(&self, unet: &UNet<Candle>, reducer: &mut dyn TokenReducer<CandleTensor>) -> Result<()> {
        let step = Step { index: 20, total: 50, evaluation: 20, sigma: 1.0, timestep: 500.0 };
        reducer.begin_run(&Run::new(50, 0, &self.rows))?;
        let input = UNetInput {
            latents: &self.latents,
            timesteps: &vec![500.0; self.rows.len()],
            text: &self.text,
            pooled: &self.pooled,
            time_ids: &self.time_ids,
            timestep_cond: None,
            step: &step,
            rows: &self.rows,
            control: None,
        };
        Candle::inference(|| unet.forward(&input, reducer)).map(drop)
    }
}

/// candle-transformers' U-Net on tensors that already exist.
fn theirs(given: HashMap<String, candle_core::Tensor>) -> candle_core::Result<UNet2DConditionModel> {
    let block = |out_channels, use_cross_attn, attention_head_dim| BlockConfig {
        out_channels,
        use_cross_attn,
        attention_head_dim,
    };
    let config = UNet2DConditionModelConfig {
        blocks: vec![block(320, None, 5), block(640, Some(2), 10), block(1280, Some(10), 20)],
        cross_attention_dim: 2048,
        use_linear_projection: true,
        ..UNet2DConditionModelConfig::default()
    };
    let weights = VarBuilder::from_tensors(given, candle_core::DType::F32, &Device::Cpu);
    UNet2DConditionModel::new(weights, 4, 4, false, config)
}

fn seconds<R>(f: impl FnOnce() -> R) -> f64 {
    let start = Instant::now();
    std::hint::black_box(f());
    start.elapsed().as_secs_f64()
}

/// The median and the lowest value. The median of an even number of values is the mean of the middle two.
fn median_and_best(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[half] } else { 0.5 * (values[half - 1] + values[half]) };
    [median, values[0]]
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let options = Options::from_args();
    let config = UNetConfig::sdxl_base();
    let tflop = options.batch as f64 * flops::full(&config, options.latents(), 77)?.sum().tflop();
    let given = Rc::new(RefCell::new(HashMap::new()));
    let source = RandomSource::new(1, DType::F32, Device::Cpu);
    let loading = Instant::now();
    let unet = if options.peak {
        UNet::<Candle>::load(&Weights::new(source), &config)?
    } else {
        UNet::<Candle>::load(&Weights::new(Shared { source, given: given.clone() }), &config)?
    };
    let Options { size, batch, rounds, .. } = options;
    println!(
        "SD-XL U-Net, {size} px, batch {batch}, f32, Candle CPU: {tflop:.3} TFLOP; weights made in {:.0} s",
        loading.elapsed().as_secs_f64()
    );
    let inputs = Inputs::new(&config, options)?;
    if options.peak {
        let time = seconds(|| inputs.evaluate(&unet, &mut Unpruned).unwrap());
        println!("one evaluation: {time:.1} s, {:.1} GFLOP/s", 1e3 * tflop / time);
        match peak_bytes() {
            Some(peak) => println!("peak memory: {:.2} GB", 1e-9 * peak as f64),
            None => println!("peak memory: not known on this system"),
        }
        return Ok(());
    }

    let other = theirs(given.take())?;
    let (latents, text): (candle_core::Tensor, candle_core::Tensor) =
        ((&inputs.latents).into(), (&inputs.text).into());
    let at_edm = AtEdmConfig { epsilon: 0.0, ..AtEdmConfig::default() };
    let mut at_edm = at_edm.build(&BuildContext::default(), &Parts::with_builtins())?;
    let matrix = candle_core::Tensor::randn(0f32, 1.0, (MATRIX, MATRIX), &Device::Cpu)?;
    let product = || seconds(|| matrix.matmul(&matrix).unwrap());
    product();
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 1..=rounds {
        let around = [
            product(),
            seconds(|| inputs.evaluate(&unet, &mut Unpruned).unwrap()),
            seconds(|| other.forward(&latents, 500.0, &text).unwrap()),
            seconds(|| inputs.evaluate(&unet, &mut at_edm).unwrap()),
        ];
        // The product runs once before, and several times after: it is short, and the machine's rate drifts.
        times[0].extend([around[0], product(), product()]);
        for (times, time) in times[1..].iter_mut().zip(&around[1..]) {
            times.push(*time);
        }
        let [_, ours, theirs, pruned] = around;
        println!(
            "round {round}: ours {ours:.2} s, candle-transformers {theirs:.2} s, ours with AT-EDM {pruned:.2} s"
        );
    }
    let [product, ours, theirs, pruned] = times.map(median_and_best);
    for (i, which) in [format!("median of {rounds} rounds"), "best".to_string()].iter().enumerate() {
        let rate = 2e-9 * (MATRIX as f64).powi(3) / product[i];
        println!("\n| {which} | s | GFLOP/s | share of the matrix product |\n|---|---|---|---|");
        println!("| Candle's {MATRIX}² matrix product | {:.3} | {rate:.1} | 100 % |", product[i]);
        for (name, time) in [("this U-Net", ours[i]), ("candle-transformers' U-Net", theirs[i])] {
            let own = 1e3 * tflop / time;
            println!("| {name} | {time:.2} | {own:.1} | {:.0} % |", 100.0 * own / rate);
        }
        println!("| this U-Net with AT-EDM (5 votes) | {:.2} | | |", pruned[i]);
        let (beside, faster) = (theirs[i] / ours[i], ours[i] / pruned[i]);
        println!(
            "{beside:.2} times as fast as candle-transformers; AT-EDM is {faster:.2} times as fast as whole"
        );
    }
    Ok(())
}
