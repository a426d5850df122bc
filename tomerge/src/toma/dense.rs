//! A reduction by matrices.

use atedm_core::backend::dims;
use atedm_core::plugin::{Reduction, expect_tokens};
use atedm_core::{DType, Error, Indices, Result, Tensor};

use super::Tiles;

/// Merges and unmerges by matrix products within tiles.
#[derive(Debug, Clone)]
pub struct DensePlan<T: Tensor> {
    /// The tokens tile by tile, `[b, tokens]`.
    order: T::Indices,
    /// The place of each token in that order, `[b, tokens]`.
    places: T::Indices,
    /// The weights `[b · tiles, destinations, tokens of a tile]`. Rows sum to 1.
    merge: T,
    /// The weights `[b · tiles, tokens of a tile, destinations]`. Rows sum to 1.
    unmerge: T,
    /// The destinations' positions in the stream, row by row, in the order of the reduced tokens.
    standing: Vec<Vec<u32>>,
    tiles: usize,
}

impl<T: Tensor> DensePlan<T> {
    /// The plan for given `shares` `[b · tiles, tokens, destinations]`. A share says how much of a token each
    /// destination of its tile represents. `chosen` holds the destinations within each tile.
    ///
    /// # Errors
    /// [`Error::Shape`] when the two do not fit each other.
    pub fn new(
        shares: &T,
        chosen: &[Vec<u32>],
        tiles: &Tiles,
        batch: usize,
        dtype: DType,
        order: T::Indices,
    ) -> Result<Self> {
        let [count, size, kept] = dims(shares, "dense plan")?;
        let fits = count == batch * tiles.count()
            && size == tiles.tokens()
            && order.dims() == (batch, tiles.count() * size);
        if !fits || chosen.len() != count || chosen.iter().any(|tile| tile.len() != kept) {
            let expected = format!("[{}, {}, destinations]", batch * tiles.count(), tiles.tokens());
            return Err(Error::shape("dense plan", expected, shares.shape()));
        }
        let given = shares.permute(&[0, 2, 1])?;
        // Each destination has a share of itself, so no sum is zero. A tiny share may vanish in 16 bits.
        let merge = given.div(&given.sum(2)?.clamp_min(f64::from(f32::MIN_POSITIVE))?)?;
        let places = tiles.order();
        let standing = chosen.chunks(tiles.count()).map(|tiles_of_row| {
            let of_tile = |(tile, places_in_tile): (usize, &Vec<u32>)| {
                let place = |&i: &u32| places.get(tile * size + i as usize).copied().unwrap_or(0);
                places_in_tile.iter().map(place).collect::<Vec<_>>()
            };
            tiles_of_row.iter().enumerate().flat_map(of_tile).collect()
        });
        let standing = standing.collect();
        Ok(Self {
            places: order.inverse()?,
            order,
            merge: merge.cast(dtype)?,
            unmerge: shares.cast(dtype)?,
            standing,
            tiles: tiles.count(),
        })
    }

    /// The number of tokens before shrinking.
    pub fn tokens(&self) -> usize {
        self.order.dims().1
    }

    /// Maps `[b, tiles · from, channels]` to `[b, tiles · to, channels]` by one product in each tile.
    fn product(&self, matrices: &T, tokens: &T) -> Result<T> {
        let [count, to, from] = dims(matrices, "dense plan")?;
        let [batch, _, channels] = dims(tokens, "dense plan")?;
        let tiled = tokens.reshape(&[count, from, channels])?;
        matrices.matmul(&tiled)?.reshape(&[batch, self.tiles * to, channels])
    }
}

impl<T: Tensor> Reduction<T> for DensePlan<T> {
    fn kept(&self) -> usize {
        self.tiles * self.merge.shape().get(1).copied().unwrap_or(0)
    }

    fn shrink(&self, full: &T) -> Result<T> {
        expect_tokens(full, self.tokens(), "dense plan: shrink")?;
        self.product(&self.merge, &full.gather(1, &self.order)?)
    }

    fn restore(&self, reduced: &T) -> Result<T> {
        expect_tokens(reduced, self.kept(), "dense plan: restore")?;
        self.product(&self.unmerge, reduced)?.gather(1, &self.places)
    }

    fn name(&self) -> &str {
        "dense plan (ToMA)"
    }

    /// There are none, because every reduced token is a mixture of its tile.
    fn positions(&self) -> Option<Result<T::Indices>> {
        None
    }

    fn representatives(&self) -> Option<Result<T::Indices>> {
        Some(T::Indices::from_host(&self.standing, &self.order.device()))
    }

    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(self.clone())
    }
}
