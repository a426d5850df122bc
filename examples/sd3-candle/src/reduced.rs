//! The forward pass with fewer image tokens.

use std::cell::RefCell;

use atedm_candle::{CandleBlockPass, CandleTensor, CandleTokens};
use atedm_core::plugin::{BlockId, Grid, Row, Step, TokenReducer};
use candle_core::{Error, Result, Tensor};

use crate::layers::{attend_jointly, norm};
use crate::model::{Entry, Inputs, Mmdit};

/// A method, for the images that are being made.
pub type Method<'a> = &'a mut dyn TokenReducer<CandleTensor>;

// ANCHOR: forward
/// The prediction `[batch, channels, height, width]`.
pub fn forward(model: &Mmdit, inputs: &Inputs, method: Method<'_>, step: &Step) -> Result<Tensor> {
    let Entry { mut image, mut text, time, grid } = model.enter(inputs)?;
    let (rows, tokens) = (Row::singles(image.dim(0)?), Grid::new(grid.0, grid.1));
    let block = BlockId::named("joint", 0, 1).map_err(Error::wrap)?;
    let mut pass = CandleBlockPass::enter(method, step, &rows, block, model.layers.len(), tokens);
    for (index, layer) in model.layers.iter().enumerate() {
        image = pass.layer(index, image)?;
        let (of_text, by) = (layer.text_in(&text, &time)?, layer.image.modulations(&time)?);
        let normed = RefCell::new(Vec::new());
        let project = |x: &CandleTokens<'_>| {
            normed.borrow_mut().push(Tensor::clone(x));
            layer.image.project(x, &by)
        };
        image = pass.joint_attention(image, &norm(), project, layer.image.scale(), |q, k, v| {
            let [text_out, image_out] = attend_jointly(&of_text.qkv, [q, k, v])?;
            text = layer.text_out(&text, &text_out, &of_text)?;
            layer.image.out(&image_out, &normed.borrow(), &by)
        })?;
        image = pass.feed_forward(image, &norm(), |x| layer.image.feed_forward(x, &by))?;
    }
    model.exit(&pass.exit(image)?, &time, grid)
}
// ANCHOR_END: forward
