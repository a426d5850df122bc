//! The unchanged forward pass.

use candle_core::{Result, Tensor};
use candle_nn::Module;

use crate::layers::{attend_jointly, norm};
use crate::model::{Entry, Inputs, Mmdit};

/// The prediction `[batch, channels, height, width]`.
pub fn forward(model: &Mmdit, inputs: &Inputs) -> Result<Tensor> {
    let Entry { mut image, mut text, time, grid } = model.enter(inputs)?;
    for layer in &model.layers {
        let (of_text, by) = (layer.text_in(&text, &time)?, layer.image.modulations(&time)?);
        let normed = [norm().forward(&image)?];
        let of_image = layer.image.project(&normed[0], &by)?;
        let [text_out, image_out] = attend_jointly(&of_text.qkv, of_image.each_ref())?;
        text = layer.text_out(&text, &text_out, &of_text)?;
        image = (&image + layer.image.out(&image_out, &normed, &by)?)?;
        image = (&image + layer.image.feed_forward(&norm().forward(&image)?, &by)?)?;
    }
    model.exit(&image, &time, grid)
}
