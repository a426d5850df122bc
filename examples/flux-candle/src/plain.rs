//! The forward pass before.

use candle_core::{Result, Tensor};
use candle_nn::Module;

use crate::layers::{Layer, attend};
use crate::model::{Flux, Inputs};

/// The prediction `[batch, height·width, channels]`.
pub fn forward(model: &Flux, inputs: &Inputs) -> Result<Tensor> {
    let (mut image, mut with) = model.enter(inputs)?;
    for block in &model.blocks {
        for layer in &block.layers {
            match layer {
                Layer::Double(layer) => {
                    let [before, after] = layer.image.modulations(&with.time)?;
                    let text_by = layer.text.modulations(&with.time)?;
                    let of_text = layer.text.qkv(&text_by[0].forward(&with.text)?, &with.text_table)?;
                    let [q, k, v] = &layer.image.qkv(&before.forward(&image)?, &with.image_table)?;
                    let [text_out, image_out] = attend(&of_text, [q, k, v])?;
                    with.text = layer.text.finish(&with.text, &text_out, &text_by)?;
                    image = (&image + before.gate(&layer.image.out(&image_out)?)?)?;
                    image = (&image + after.gate(&layer.image.feed_forward(&after.forward(&image)?)?)?)?;
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
    }
    model.exit(&image, &with.time)
}
