//! What a forward pass pays for a graph or a vote that it was asked for: the difference that the request makes.

use atedm_core::backend::{AttentionOptions, GraphRequest};
use atedm_core::{AttentionOps, Backend, Result, Tensor};
use atedm_sdxl::config::BlockInfo;
use atedm_sdxl::rng::{NoiseSource, TorchRng};

use super::clock::{Detail, SharedClock, median};
use super::stage::Bench;
use super::timed::Asked;

/// Seconds that requests cost at one shape of attention.
#[derive(Debug, Clone, Copy)]
struct Price {
    shape: [usize; 4],
    graph: f64,
    vote: f64,
}

/// What requests cost, by the shape of attention.
#[derive(Debug, Default)]
pub(super) struct Prices(Vec<Price>);

impl Prices {
    /// Times attention at every shape that something was asked at, with and without a request in turns.
    pub(super) fn measure<B: Backend>(
        asked: &[Asked],
        blocks: &[BlockInfo],
        bench: &Bench<B>,
        clock: &SharedClock,
    ) -> Result<Self> {
        let mut prices = Self::default();
        for shape in asked.iter().filter_map(|asked| shape(asked, blocks)) {
            if !prices.0.iter().any(|price| price.shape == shape) {
                prices.0.push(price::<B>(shape, bench, clock)?);
            }
        }
        Ok(prices)
    }

    /// Seconds that these requests cost together.
    pub(super) fn of(&self, asked: &[Asked], blocks: &[BlockInfo]) -> f64 {
        let one = |asked: &Asked| {
            let shape = shape(asked, blocks)?;
            let price = self.0.iter().find(|price| price.shape == shape)?;
            Some(if asked.vote { price.vote } else { price.graph })
        };
        asked.iter().filter_map(one).sum()
    }
}

/// Rows, heads, tokens, and channels of a head.
fn shape(asked: &Asked, blocks: &[BlockInfo]) -> Option<[usize; 4]> {
    let block = blocks.iter().find(|block| block.id == asked.block)?;
    Some([asked.rows, block.heads, block.grid.tokens(), block.channels / block.heads.max(1)])
}

fn price<B: Backend>(shape: [usize; 4], bench: &Bench<B>, clock: &SharedClock) -> Result<Price> {
    const ROUNDS: usize = 5;
    let [batch, heads, tokens, dim] = shape;
    let (dtype, device) = (bench.dtype, &bench.device);
    let mut noise = TorchRng::new(2);
    // in the layout that projections leave behind: heads beside each other in every token
    let mut draw = || {
        let stored = [batch, tokens, heads, dim];
        B::Tensor::from_f32(&noise.standard_normal(&stored)?, &stored, dtype, device)?.permute(&[0, 2, 1, 3])
    };
    let (q, k, v) = (draw()?, draw()?, draw()?);
    let scores = B::Tensor::full(1.0 / tokens as f64, &[batch, heads, tokens], dtype.accumulator(), device)?;
    let seconds = |graph: &GraphRequest<B::Tensor>| {
        let options = AttentionOptions { graph, ..AttentionOptions::for_dim(dim) };
        let attend = || B::inference(|| B::Tensor::attention(&q, &k, &v, options)).map(drop);
        Ok(clock.time(Detail::Total, attend)?.1.total())
    };
    let requests = [GraphRequest::None, GraphRequest::Lazy, GraphRequest::FirstVote(scores)];
    let mut times: [Vec<f64>; 3] = Default::default();
    for round in 0..=ROUNDS {
        for (times, request) in times.iter_mut().zip(&requests) {
            let time = seconds(request)?;
            if round > 0 {
                times.push(time);
            }
        }
    }
    let [without, graph, vote] = times.map(median);
    Ok(Price { shape, graph: (graph - without).max(0.0), vote: (vote - without).max(0.0) })
}
