//! The part of the map between two sets of tokens, in the mean over heads.
//!
//! The streamed form holds one tile at a time: all rows of one set and a block of columns of the other.

use super::attention::{add_last, concat, head_mean, row_blocks};
use crate::backend::{Donors, Indices, Partition, Streamed, Tensor, dims};
use crate::{Error, Result};

/// The number of columns. An empty set is an error.
fn expect_some<T: Tensor>(rows: &T::Indices, columns: &T::Indices) -> Result<usize> {
    let (row_count, column_count) = (rows.dims().1, columns.dims().1);
    if row_count == 0 || column_count == 0 {
        let expected = "at least one row and one column of the map, or one kept and one pruned token";
        return Err(Error::shape("attention block", expected, [row_count, column_count]));
    }
    Ok(column_count)
}

/// Calls `each` with every tile in turn: `[b, rows, some columns]`, in the mean over heads.
fn tiles<T: Tensor, R>(
    graph: &Streamed<T>,
    rows: &T::Indices,
    columns: &T::Indices,
    mut each: impl FnMut(&T) -> Result<R>,
) -> Result<Vec<R>> {
    let column_count = expect_some::<T>(rows, columns)?;
    let wide = graph.lse.dtype();
    let queries = graph.q.gather(2, rows)?.cast(wide)?;
    let lse = add_last(&graph.lse.gather(2, rows)?)?;
    let keys = graph.k.gather(2, columns)?.cast(wide)?;
    let tile = |(start, len): (usize, usize)| {
        let columns = keys.narrow(2, start, len)?.permute(&[0, 1, 3, 2])?;
        let map = queries.matmul(&columns)?.affine(graph.scale, 0.0)?.sub(&lse)?.exp()?;
        each(&head_mean(&map)?)
    };
    row_blocks(column_count).map(tile).collect()
}

/// The map between `rows` and `columns` of a stored map, in the mean over heads: `[b, rows, columns]`, in the
/// accumulator dtype.
fn dense_tile<T: Tensor>(map: &T, rows: &T::Indices, columns: &T::Indices) -> Result<T> {
    expect_some::<T>(rows, columns)?;
    let among = map.gather(2, rows)?.gather(3, columns)?;
    head_mean(&among.cast(among.dtype().accumulator())?)
}

/// Permutes `[b, rows, columns]` to `[b, columns, rows]`.
fn by_column<T: Tensor>(tile: &T) -> Result<T> {
    tile.permute(&[0, 2, 1])
}

/// For each pruned column the argmax over kept rows of the head-mean map, in blocks of columns.
pub fn strongest<T: Tensor>(graph: &Streamed<T>, partition: &Partition<T>) -> Result<T::Indices> {
    let parts = tiles(graph, &partition.kept, &partition.pruned, T::argmax_rows)?;
    T::Indices::concat(&parts.iter().collect::<Vec<_>>())
}

/// For each pruned column the argmax over kept rows of a stored map.
pub fn dense_strongest<T: Tensor>(map: &T, partition: &Partition<T>) -> Result<T::Indices> {
    dense_tile(map, &partition.kept, &partition.pruned)?.argmax_rows()
}

/// The head-mean map between two sets of tokens, in blocks of columns: `[b, columns, rows]`.
pub fn block<T: Tensor>(graph: &Streamed<T>, rows: &T::Indices, columns: &T::Indices) -> Result<T> {
    concat(tiles(graph, rows, columns, by_column)?, 1)
}

/// The head-mean map between two sets of tokens, from a stored map: `[b, columns, rows]`.
pub fn dense_block<T: Tensor>(map: &T, rows: &T::Indices, columns: &T::Indices) -> Result<T> {
    by_column(&dense_tile(map, rows, columns)?)
}

/// For each pruned column the `k` kept rows with the highest head means, in blocks of columns.
pub fn top_k<T: Tensor>(graph: &Streamed<T>, partition: &Partition<T>, k: usize) -> Result<Donors<T>> {
    let parts = tiles(graph, &partition.kept, &partition.pruned, |tile| highest(tile, k))?;
    let donors: Vec<&T::Indices> = parts.iter().map(|part| &part.kept).collect();
    let attention = parts.iter().map(|part| part.attention.clone()).collect();
    Ok(Donors { kept: T::Indices::concat(&donors)?, attention: concat(attention, 1)? })
}

/// For each pruned column the `k` kept rows with the highest head means, from a stored map.
pub fn dense_top_k<T: Tensor>(map: &T, partition: &Partition<T>, k: usize) -> Result<Donors<T>> {
    highest(&dense_tile(map, &partition.kept, &partition.pruned)?, k)
}

/// The `k` highest rows of every column of a tile `[b, rows, columns]`.
fn highest<T: Tensor>(tile: &T, k: usize) -> Result<Donors<T>> {
    let [batch, rows, columns] = dims(tile, "donors")?;
    let flat = by_column(tile)?.reshape(&[batch * columns, rows])?;
    let chosen = flat.split_top_k(k)?.kept;
    let attention = flat.gather(1, &chosen)?.reshape(&[batch, columns, k])?;
    Ok(Donors { kept: chosen.reshape(batch, columns * k)?, attention })
}
