//! Times a Stable Diffusion 3 with random weights: whole, with AT-EDM and with ToMe.
//!
//! `RAYON_NUM_THREADS=1 cargo run --release -p example-sd3-candle --example speed_sd3`

#[path = "../../support/speed.rs"]
mod speed;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use example_sd3_candle::config::Config;
use example_sd3_candle::model::{Inputs, Mmdit};
use example_sd3_candle::{plain, reduced};

/// Rows and columns of tokens: 512 x 512 and 768 x 768 pixels.
const GRIDS: [(usize, usize); 2] = [(32, 32), (48, 48)];
const TEXT: usize = 128;

fn main() -> Result<()> {
    let config = Config {
        patch_size: 2,
        in_channels: 16,
        out_channels: 16,
        num_layers: 12,
        attention_head_dim: 64,
        num_attention_heads: 4,
        joint_attention_dim: 256,
        pooled_projection_dim: 128,
        pos_embed_max_size: 64,
    };
    let weights = VarMap::new();
    let model = Mmdit::load(&config, &VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu))?;
    let normal = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
    speed::head();
    for (height, width) in GRIDS {
        let inputs = Inputs {
            latents: normal(&[1, 16, 2 * height, 2 * width])?,
            text: normal(&[1, TEXT, 256])?,
            pooled: normal(&[1, 128])?,
            time: Tensor::new(&[500f32], &Device::Cpu)?,
        };
        speed::row(
            &format!("Stable Diffusion 3, {height} x {width} image and {TEXT} text tokens"),
            1,
            || plain::forward(&model, &inputs).map(drop),
            |method, step| reduced::forward(&model, &inputs, &mut **method, step).map(drop),
        )?;
    }
    Ok(())
}
