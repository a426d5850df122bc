//! Times a FLUX with random weights: whole, with AT-EDM and with ToMe.
//!
//! `RAYON_NUM_THREADS=1 cargo run --release -p example-flux-candle --example speed_flux`

#[path = "../../support/speed.rs"]
mod speed;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use example_flux_candle::config::Config;
use example_flux_candle::model::{Flux, Inputs};
use example_flux_candle::{plain, reduced};

/// Rows and columns of tokens: 512 x 512 and 768 x 768 pixels.
const GRIDS: [(usize, usize); 2] = [(32, 32), (48, 48)];
const TEXT: usize = 128;

fn main() -> Result<()> {
    let config = Config {
        in_channels: 64,
        out_channels: None,
        num_layers: 4,
        num_single_layers: 8,
        attention_head_dim: 64,
        num_attention_heads: 4,
        joint_attention_dim: 256,
        pooled_projection_dim: 128,
        guidance_embeds: true,
        axes_dims_rope: [8, 28, 28],
    };
    let weights = VarMap::new();
    let model = Flux::load(&config, &VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu))?;
    let normal = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
    speed::head();
    for (height, width) in GRIDS {
        let inputs = Inputs {
            latents: normal(&[1, height * width, 64])?,
            grid: (height, width),
            text: normal(&[1, TEXT, 256])?,
            pooled: normal(&[1, 128])?,
            time: Tensor::new(&[0.5f32], &Device::Cpu)?,
            guidance: Some(Tensor::new(&[3.5f32], &Device::Cpu)?),
        };
        speed::row(
            &format!("FLUX, {height} x {width} image and {TEXT} text tokens"),
            1,
            || plain::forward(&model, &inputs).map(drop),
            |method, step| reduced::forward(&model, &inputs, &mut **method, step).map(drop),
        )?;
    }
    Ok(())
}
