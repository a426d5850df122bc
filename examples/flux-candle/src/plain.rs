//! The unchanged forward pass.

use candle_core::{Result, Tensor};
use candle_nn::Module;

use crate::layers::{Block, Layer, attend};
use crate::model::{Context, Flux, Inputs};

/// The prediction `[batch, height·width, channels]`.
pub fn forward(model: &Flux, inputs: &Inputs) -> Result<Tensor> {
    let (image, mut with) = model.enter(inputs)?;
    let image = run(&model.blocks, image, &mut with)?;
    model.exit(&image, &with.time)
}

/// The image's tokens after these blocks.
fn run(blocks: &[Block], mut image: Tensor, with: &mut Context) -> Result<Tensor> {
    for layer in blocks.iter().flat_map(|block| &block.layers) {
        match layer {
            Layer::Double(layer) => {
                let [before, after] = layer.image.modulations(&with.time)?;
                let text_by = layer.text.modulations(&with.time)?;
                let of_text = layer.text.qkv(&text_by[0].forward(&with.text)?, &with.text_table)?;
                let [q, k, v] = &layer.image.qkv(&before.forward(&image)?, &with.image_table)?;
                let [text_out, image_out] = attend(&of_text, [q, k, v])?;
                with.text = layer.text.finish(&with.text, &text_out, &text_by)?;
                image = (&image + before.gate(&layer.image.out(&image_out)?)?)?;
                image = (&image + after.gate(&layer.image.mlp(&after.forward(&image)?)?)?)?;
            }
            Layer::Single(layer) => {
                let by = layer.modulation(&with.time)?;
                let text_normed = by.forward(&with.text)?;
                let normed = by.forward(&image)?;
                let of_text = layer.qkv(&text_normed, &with.text_table)?;
                let [q, k, v] = &layer.qkv(&normed, &with.image_table)?;
                let [text_out, image_out] = attend(&of_text, [q, k, v])?;
                with.text = (&with.text + by.gate(&layer.out(&text_out, &text_normed)?)?)?;
                image = (&image + by.gate(&layer.out(&image_out, &normed)?)?)?;
            }
        }
    }
    Ok(image)
}
