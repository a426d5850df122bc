//! The forward pass with fewer image tokens, or with outputs of an earlier step.

use atedm_candle::{CandleBlockPass, CandleTensor, CandleTokens, nest};
use atedm_core::plugin::{BlockId, Grid, NestId, NestSite, Row, Step, TokenReducer};
use candle_core::{Result, Tensor};
use candle_nn::Module;

use crate::layers::{Block, Layer, attend};
use crate::model::{Context, Flux, Inputs};

/// A method, for the images that are being made.
pub type Method<'a> = &'a mut dyn TokenReducer<CandleTensor>;

// ANCHOR: forward
/// The prediction `[batch, height·width, channels]`.
pub fn forward(model: &Flux, inputs: &Inputs, method: Method<'_>, step: &Step) -> Result<Tensor> {
    let (image, mut with) = model.enter(inputs)?;
    let image = run(&model.blocks, image, &mut with, method, step)?;
    model.exit(&image, &with.time)
}

/// The image's tokens after these blocks. Nest `i` is all blocks from block `i` on.
fn run(of: &[Block], image: Tensor, with: &mut Context, by: Method<'_>, step: &Step) -> Result<Tensor> {
    let Some((block, others)) = of.split_first() else { return Ok(image) };
    let (rows, grid) = (Row::singles(image.dim(0)?), Grid::new(with.grid.0, with.grid.1));
    let id = BlockId::named(block.stage, block.index, block.count).map_err(candle_core::Error::wrap)?;
    let site = NestSite { nest: NestId(block.number), step: *step, rows: &rows };
    nest(by, &site, image, |by, mut image| {
        let mut pass = CandleBlockPass::enter(by, step, &rows, id, block.layers.len(), grid);
        for (index, layer) in block.layers.iter().enumerate() {
            image = pass.layer(index, image)?;
            match layer {
                Layer::Double(layer) => {
                    let [before, after] = layer.image.modulations(&with.time)?;
                    let text_by = layer.text.modulations(&with.time)?;
                    let of_text = layer.text.qkv(&text_by[0].forward(&with.text)?, &with.text_table)?;
                    let qkv = |x: &CandleTokens<'_>| layer.image.qkv(x, &x.rows(&with.image_table)?);
                    image = pass.joint_attention(image, &before, qkv, with.scale, |q, k, v| {
                        let [text_out, image_out] = attend(&of_text, [q, k, v])?;
                        with.text = layer.text.finish(&with.text, &text_out, &text_by)?;
                        before.gate(&layer.image.out(&image_out)?)
                    })?;
                    image = pass.feed_forward(image, &after, |x| after.gate(&layer.image.mlp(x)?))?;
                }
                Layer::Single(layer) => {
                    let by = layer.modulation(&with.time)?;
                    let text_normed = by.forward(&with.text)?;
                    let of_text = layer.qkv(&text_normed, &with.text_table)?;
                    let qkv = |x: &CandleTokens<'_>| layer.qkv(x, &x.rows(&with.image_table)?);
                    image = pass.parallel(image, &by, qkv, with.scale, |normed, q, k, v| {
                        let [text_out, image_out] = attend(&of_text, [q, k, v])?;
                        with.text = (&with.text + by.gate(&layer.out(&text_out, &text_normed)?)?)?;
                        by.gate(&layer.out(&image_out, normed)?)
                    })?;
                }
            }
        }
        run(others, pass.exit(image)?, with, by, step)
    })
}
// ANCHOR_END: forward
