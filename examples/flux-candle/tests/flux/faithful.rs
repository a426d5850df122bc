//! The plain port beside diffusers, on a small checkpoint that diffusers wrote (`make_fixture.py`).

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use example_flux_candle::model::{Flux, Inputs};
use example_flux_candle::plain;

use crate::cases::{TOLERANCE, relative};
use crate::fixture::{self, Fixture};

#[test]
fn the_prediction_is_diffusers_own() -> Result<()> {
    let fixture = Fixture::read()?;
    let distance = relative(&plain::forward(&fixture.model, &fixture.inputs)?, fixture.expected("output")?)?;
    println!("relative L2 distance from diffusers: {distance:.1e}");
    assert!(distance <= TOLERANCE, "{distance:e}");
    Ok(())
}

#[test]
fn every_input_matters() -> Result<()> {
    let Fixture { model, inputs, .. } = Fixture::read()?;
    let whole = plain::forward(&model, &inputs)?;
    let (height, width) = inputs.grid;
    let doubled = |x: &Tensor| x * 2.0;
    let others = [
        ("latents", Inputs { latents: doubled(&inputs.latents)?, ..inputs.clone() }),
        ("grid", Inputs { grid: (width, height), ..inputs.clone() }),
        ("text", Inputs { text: doubled(&inputs.text)?, ..inputs.clone() }),
        ("pooled", Inputs { pooled: doubled(&inputs.pooled)?, ..inputs.clone() }),
        ("time", Inputs { time: doubled(&inputs.time)?, ..inputs.clone() }),
        (
            "guidance",
            Inputs { guidance: inputs.guidance.as_ref().map(doubled).transpose()?, ..inputs.clone() },
        ),
    ];
    for (name, inputs) in others {
        let distance = relative(&plain::forward(&model, &inputs)?, &whole)?;
        assert!(distance > 100.0 * TOLERANCE, "{name}: {distance:e}");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() -> Result<()> {
    let Fixture { model, inputs, .. } = Fixture::read()?;
    let message = |inputs: &Inputs| plain::forward(&model, inputs).map(|_| ()).unwrap_err().to_string();
    let grid = message(&Inputs { grid: (5, 10), ..inputs.clone() });
    assert!(grid.contains("5 x 10") && grid.contains("60 latents"), "{grid}");
    let guidance = message(&Inputs { guidance: None, ..inputs.clone() });
    assert!(guidance.contains("needs a guidance scale"), "{guidance}");
    let mut config = fixture::config()?;
    config.guidance_embeds = false;
    let zeros = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let schnell = Flux::load(&config, &zeros)?;
    let refused = plain::forward(&schnell, &inputs).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("no guidance scale"), "{refused}");
    Ok(())
}
