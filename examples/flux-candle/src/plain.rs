//! The forward pass before.

use candle_core::{Result, Tensor};
use candle_nn::Module;

use crate::layers::attend;
use crate::model::{Entry, Flux, Inputs};

/// The prediction `[batch, height·width, channels]`.
pub fn forward(model: &Flux, inputs: &Inputs) -> Result<Tensor> {
    let Entry { mut image, mut text, time, image_table, text_table } = model.enter(inputs)?;
    for layer in &model.double {
        let ([before, after], text_by) = (layer.image.modulations(&time)?, layer.text.modulations(&time)?);
        let of_text = layer.text.project.forward(&text_by[0].forward(&text)?, &text_table)?;
        let of_image = layer.image.project.forward(&before.forward(&image)?, &image_table)?;
        let [text_out, image_out] = attend(&of_text, &of_image)?;
        text = layer.text.finish(&text, &text_out, &text_by)?;
        image = (&image + before.gate(&layer.image.out(&image_out)?)?)?;
        image = (&image + after.gate(&layer.image.feed_forward(&after.forward(&image)?)?)?)?;
    }
    for layer in &model.single {
        let by = layer.modulation(&time)?;
        let (text_normed, normed) = (by.forward(&text)?, by.forward(&image)?);
        let of_text = layer.project.forward(&text_normed, &text_table)?;
        let of_image = layer.project.forward(&normed, &image_table)?;
        let [text_out, image_out] = attend(&of_text, &of_image)?;
        text = (&text + by.gate(&layer.out(&text_out, &text_normed)?)?)?;
        image = (&image + by.gate(&layer.out(&image_out, &normed)?)?)?;
    }
    model.exit(&image, &time)
}
