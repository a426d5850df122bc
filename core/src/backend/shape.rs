//! The shapes that fit an operation, and the shape that it returns. Every backend has the same rules and error texts.
//!
//! A backend first calls the function of its operation. After that, the operation cannot fail because of a shape.
//! The rule of a convolution is [`Conv2dOptions::output_shape`](super::Conv2dOptions::output_shape).

use crate::{DType, Error, Result};

/// The number of elements of `shape`.
///
/// # Errors
/// [`Error::Shape`] when the elements, at 8 bytes each, do not fit an address space. This holds even if another axis is 0.
pub fn elements(shape: &[usize], op: &'static str) -> Result<usize> {
    let filled = shape.iter().filter(|&&len| len > 0);
    match filled.clone().try_fold(8usize, |bytes, &len| bytes.checked_mul(len)) {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(shape.iter().product()),
        _ => Err(Error::shape(op, "a shape that fits in memory", shape)),
    }
}

/// [`Tensor::from_bytes`](super::Tensor::from_bytes): the number of elements that `bytes` bytes of dtype `stored` hold.
///
/// # Errors
/// [`Error::Shape`] unless `shape` takes exactly this number of bytes.
pub fn from_bytes(bytes: usize, stored: DType, shape: &[usize]) -> Result<usize> {
    let count = elements(shape, "from_bytes")?;
    if count * stored.size_in_bytes() == bytes {
        return Ok(count);
    }
    Err(Error::shape("from_bytes", format!("a shape of {bytes} bytes of {stored}"), shape))
}

/// The shape of the result of two operands, where axes of length 1 broadcast.
///
/// # Errors
/// [`Error::Shape`] that names `op`, unless both have the same number of axes and each pair of axes is equal or has a 1.
pub fn broadcast(op: &'static str, left: &[usize], right: &[usize]) -> Result<Vec<usize>> {
    let fit = |(&l, &r): (&usize, &usize)| match (l, r) {
        (l, r) if l == r => Some(l),
        (1, r) => Some(r),
        (l, 1) => Some(l),
        _ => None,
    };
    let shape: Option<Vec<usize>> = left.iter().zip(right).map(fit).collect();
    shape
        .filter(|_| left.len() == right.len())
        .ok_or_else(|| Error::shape(op, format!("a shape that broadcasts with {left:?}"), right))
}

/// [`Tensor::reshape`](super::Tensor::reshape) of `from` to `to`.
///
/// # Errors
/// [`Error::Shape`] unless both have the same number of elements.
pub fn reshape(from: &[usize], to: &[usize]) -> Result<()> {
    let count = elements(from, "reshape")?;
    if elements(to, "reshape")? == count {
        return Ok(());
    }
    Err(Error::shape("reshape", format!("a shape of the {count} elements of {from:?}"), to))
}

/// [`Tensor::permute`](super::Tensor::permute): the shape with its axes in the order `axes`.
///
/// # Errors
/// [`Error::Shape`] unless `axes` names every axis once.
pub fn permute(shape: &[usize], axes: &[usize]) -> Result<Vec<usize>> {
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..shape.len()) {
        return Err(Error::shape("permute", format!("as many axes as {axes:?}, each once"), shape));
    }
    Ok(axes.iter().map(|&axis| shape[axis]).collect())
}

/// [`Tensor::narrow`](super::Tensor::narrow): the shape with `len` entries on `axis`.
///
/// # Errors
/// [`Error::Shape`] unless `axis` has `len` entries from `start`.
pub fn narrow(shape: &[usize], axis: usize, start: usize, len: usize) -> Result<Vec<usize>> {
    let all = shape.get(axis).copied();
    if start.checked_add(len).is_none_or(|end| all.is_none_or(|all| end > all)) {
        let expected = format!("an axis {axis} with {len} entries from {start}");
        return Err(Error::shape("narrow", expected, shape));
    }
    with_axis("narrow", shape, axis, len)
}

/// [`Tensor::concat`](super::Tensor::concat): the shape of the parts in sequence along `axis`.
///
/// # Errors
/// [`Error::Shape`] when there is no part, or the parts differ on another axis.
pub fn concat<S: AsRef<[usize]>>(parts: &[S], axis: usize) -> Result<Vec<usize>> {
    let first = parts.first().ok_or_else(|| no_parts("concat"))?.as_ref();
    let mut total = 0usize;
    for part in parts {
        let part = part.as_ref();
        let fits = part.len() == first.len()
            && part.iter().zip(first).enumerate().all(|(i, (a, b))| i == axis || a == b);
        if !fits {
            return Err(Error::shape("concat", format!("{first:?} but for axis {axis}"), part));
        }
        total = total.saturating_add(part.get(axis).copied().unwrap_or(0));
    }
    with_axis("concat", first, axis, total)
}

/// The error of `op` when it gets nothing to concatenate.
pub fn no_parts(op: &'static str) -> Error {
    Error::shape(op, "at least one part", [])
}

/// [`Tensor::matmul`](super::Tensor::matmul): `[.., m, k]` and `[.., k, n]` give `[.., m, n]`.
///
/// # Errors
/// [`Error::Shape`] unless both have the same number of axes, 2 to 4. Their leading axes and their inner axes must be equal.
pub fn matmul(left: &[usize], right: &[usize]) -> Result<Vec<usize>> {
    let rank = left.len();
    if !(2..=4).contains(&rank) {
        return Err(Error::shape("matmul", "2 to 4 axes", left));
    }
    let (outer, inner) = (&left[..rank - 2], left[rank - 1]);
    if right.len() != rank || right[..rank - 2] != *outer || right[rank - 2] != inner {
        return Err(Error::shape("matmul", format!("[.., {inner}, n] to the right of {left:?}"), right));
    }
    with_axis("matmul", left, rank - 1, right[rank - 1])
}

/// The shape after a reduction that keeps its axis: it has a 1 on `axis`.
///
/// # Errors
/// [`Error::Shape`] that names `op`, when this axis does not exist.
pub fn reduce(op: &'static str, shape: &[usize], axis: usize) -> Result<Vec<usize>> {
    with_axis(op, shape, axis, 1)
}

/// [`Tensor::max`](super::Tensor::max): as [`reduce`], over at least one entry.
///
/// # Errors
/// [`Error::Shape`] when the axis does not exist or is empty.
pub fn max(shape: &[usize], axis: usize) -> Result<Vec<usize>> {
    match shape.get(axis) {
        Some(0) => Err(Error::shape("max", format!("at least one entry on axis {axis}"), shape)),
        _ => reduce("max", shape, axis),
    }
}

/// [`Tensor::split_top_k`](super::Tensor::split_top_k) of scores of this shape: `[batch, n]`.
///
/// # Errors
/// [`Error::Shape`] unless there are two axes and `kept` is 1 to `n`.
pub fn split_top_k(scores: &[usize], kept: usize) -> Result<[usize; 2]> {
    match *scores {
        [batch, n] if (1..=n).contains(&kept) && u32::try_from(n).is_ok() => Ok([batch, n]),
        _ => {
            let expected = format!("[batch, at least {}], to keep {kept}", kept.max(1));
            Err(Error::shape("split_top_k", expected, scores))
        }
    }
}

/// [`Tensor::argmax_rows`](super::Tensor::argmax_rows) of values of this shape: `[batch, n, m]`.
///
/// # Errors
/// [`Error::Shape`] unless there are three axes and at least one row.
pub fn argmax_rows(values: &[usize]) -> Result<[usize; 3]> {
    match *values {
        [batch, n, m] if n > 0 && u32::try_from(n).is_ok() => Ok([batch, n, m]),
        _ => Err(Error::shape("argmax_rows", "[batch, at least 1, columns]", values)),
    }
}

/// [`Tensor::gather`](super::Tensor::gather) with `(batch, count)` indices: the shape with `count` entries on `axis`.
///
/// # Errors
/// [`Error::Shape`] unless `axis` is 1 or above and axis 0 has `batch` entries.
pub fn gather(shape: &[usize], axis: usize, (batch, count): (usize, usize)) -> Result<Vec<usize>> {
    if axis == 0 || axis >= shape.len() || shape[0] != batch {
        return Err(Error::shape("gather", format!("[{batch}, ..] and an axis {axis} of 1 or above"), shape));
    }
    with_axis("gather", shape, axis, count)
}

/// [`Tensor::scatter_into`](super::Tensor::scatter_into) of `rows` into `base` at `(batch, count)` places. The
/// result is the base's `[batch, n, channels]`.
///
/// # Errors
/// [`Error::Shape`] unless the base has three axes and the rows are `[batch, count, channels]`.
pub fn scatter_into(rows: &[usize], base: &[usize], (lists, count): (usize, usize)) -> Result<[usize; 3]> {
    let &[batch, n, channels] = base else {
        return Err(Error::shape("scatter_into", "a base [batch, tokens, channels]", base));
    };
    if *rows != [batch, count, channels] || lists != batch {
        let expected = format!("rows [{batch}, {count}, {channels}] for {lists} lists of places");
        return Err(Error::shape("scatter_into", expected, rows));
    }
    Ok([batch, n, channels])
}

/// The common length of the rows of index lists; 0 without rows.
///
/// # Errors
/// [`Error::Shape`] when a row's length differs from the first.
pub fn index_rows(rows: &[Vec<u32>]) -> Result<usize> {
    let count = rows.first().map_or(0, Vec::len);
    match rows.iter().find(|row| row.len() != count) {
        Some(other) => Err(Error::shape("indices", format!("rows of one length, {count}"), [other.len()])),
        None => Ok(count),
    }
}

/// Checks index lists for an axis of `len` entries. `highest` is their highest entry.
///
/// # Errors
/// [`Error::Shape`] that names `op`, when `highest` is not below `len`.
pub fn index_below(op: &'static str, highest: u32, len: usize) -> Result<()> {
    if (highest as usize) < len {
        return Ok(());
    }
    Err(Error::shape(op, format!("indices below {len}, got {highest}"), [len]))
}

/// [`NnOps::upsample_nearest`](super::NnOps::upsample_nearest) of `[b, c, h, w]`: `[b, c, height, width]`.
///
/// # Errors
/// [`Error::Shape`] unless the image has four axes and neither the image nor the target is empty.
pub fn upsample_nearest(image: &[usize], height: usize, width: usize) -> Result<[usize; 4]> {
    match *image {
        [b, c, h, w] if h > 0 && w > 0 && height > 0 && width > 0 => Ok([b, c, height, width]),
        _ => {
            let expected = format!("[b, c, at least 1, at least 1] to resize to {height} x {width}");
            Err(Error::shape("upsample_nearest", expected, image))
        }
    }
}

/// [`NnOps::embedding`](super::NnOps::embedding) of `(batch, length)` ids: `[batch, length, channels]`.
///
/// # Errors
/// [`Error::Shape`] unless the table is `[vocabulary, channels]`.
pub fn embedding(table: &[usize], (batch, length): (usize, usize)) -> Result<[usize; 3]> {
    match *table {
        [_, channels] => Ok([batch, length, channels]),
        _ => Err(Error::shape("embedding", "a table [vocabulary, channels]", table)),
    }
}

/// [`NnOps::linear`](super::NnOps::linear) of `[.., in]` with a weight `[out, in]` and a bias `[out]`: `[.., out]`.
///
/// # Errors
/// [`Error::Shape`] unless the shapes fit.
pub fn linear(x: &[usize], weight: &[usize], bias: Option<&[usize]>) -> Result<Vec<usize>> {
    let &[out, inner] = weight else {
        return Err(Error::shape("linear", "a weight [out, in]", weight));
    };
    if x.last() != Some(&inner) {
        return Err(Error::shape("linear", format!("[.., {inner}]"), x));
    }
    if let Some(bias) = bias.filter(|&bias| bias != [out]) {
        return Err(Error::shape("linear bias", format!("[{out}]"), bias));
    }
    with_axis("linear", x, x.len() - 1, out)
}

/// The halves of the projection of [`NnOps::geglu`](super::NnOps::geglu): `[.., 2 n]` gives `[.., n]`.
///
/// # Errors
/// [`Error::Shape`] if the last axis is odd or missing.
pub fn halves(op: &'static str, projected: &[usize]) -> Result<Vec<usize>> {
    match projected.last() {
        Some(&both) if both.is_multiple_of(2) => with_axis(op, projected, projected.len() - 1, both / 2),
        _ => Err(Error::shape(op, "[.., an even number of channels]", projected)),
    }
}

/// Checks scores over an attention graph: one score per head and token.
///
/// # Errors
/// [`Error::Shape`] that names `op`, unless the scores are the `[b, h, tokens]` of this graph.
pub fn scores(op: &'static str, scores: &[usize], expected: [usize; 3]) -> Result<()> {
    if *scores == expected {
        return Ok(());
    }
    Err(Error::shape(op, format!("scores {expected:?}"), scores))
}

fn with_axis(op: &'static str, shape: &[usize], axis: usize, len: usize) -> Result<Vec<usize>> {
    let mut shape = shape.to_vec();
    match shape.get_mut(axis) {
        Some(slot) => *slot = len,
        None => return Err(Error::shape(op, format!("more than {axis} axes"), shape)),
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn results_have_the_shapes_of_the_contract() {
        assert_eq!(broadcast("add", &[2, 1, 3], &[1, 4, 3]).unwrap(), [2, 4, 3]);
        assert_eq!(broadcast("add", &[0, 1], &[1, 4]).unwrap(), [0, 4]);
        assert_eq!(permute(&[2, 3, 4], &[2, 0, 1]).unwrap(), [4, 2, 3]);
        assert_eq!(narrow(&[2, 5], 1, 3, 2).unwrap(), [2, 2]);
        assert_eq!(narrow(&[2, 5], 1, 5, 0).unwrap(), [2, 0]);
        assert_eq!(concat(&[[2, 1], [2, 0], [2, 4]], 1).unwrap(), [2, 5]);
        assert_eq!(matmul(&[2, 3, 4], &[2, 4, 5]).unwrap(), [2, 3, 5]);
        assert_eq!(reduce("sum", &[2, 0], 1).unwrap(), [2, 1]);
        assert_eq!(gather(&[2, 3, 5], 2, (2, 7)).unwrap(), [2, 3, 7]);
        assert_eq!(scatter_into(&[2, 1, 4], &[2, 3, 4], (2, 1)).unwrap(), [2, 3, 4]);
        assert_eq!(linear(&[7, 2, 3], &[5, 3], Some(&[5])).unwrap(), [7, 2, 5]);
        assert_eq!(halves("geglu", &[3, 8]).unwrap(), [3, 4]);
        assert_eq!(upsample_nearest(&[1, 2, 3, 4], 5, 6).unwrap(), [1, 2, 5, 6]);
        assert_eq!(embedding(&[9, 4], (2, 3)).unwrap(), [2, 3, 4]);
        assert_eq!(elements(&[], "full").unwrap(), 1);
        assert_eq!(from_bytes(12, DType::F16, &[2, 3]).unwrap(), 6);
    }

    #[test]
    fn what_does_not_fit_is_one_line_with_the_operation_first() {
        let lines = [
            message(broadcast("add", &[2, 3], &[3])),
            message(broadcast("add", &[2, 3], &[2, 2])),
            message(reshape(&[2, 3], &[4])),
            message(reshape(&[0], &[0, usize::MAX, usize::MAX])),
            message(permute(&[2, 3], &[0, 0])),
            message(permute(&[2, 3], &[0])),
            message(narrow(&[2, 3], 1, 2, 2)),
            message(narrow(&[2, 3], 2, 0, 1)),
            message(narrow(&[2, 3], 1, usize::MAX, 2)),
            message(concat::<Vec<usize>>(&[], 0)),
            message(concat(&[vec![2, 3], vec![3, 3]], 1)),
            message(concat(&[[2, 3]], 2)),
            message(matmul(&[3], &[3])),
            message(matmul(&[2, 3], &[2, 3])),
            message(matmul(&[2, 3, 4], &[1, 4, 5])),
            message(reduce("sum", &[2], 1)),
            message(max(&[2, 0], 1)),
            message(split_top_k(&[2, 3], 0)),
            message(split_top_k(&[2, 3], 4)),
            message(split_top_k(&[3], 1)),
            message(argmax_rows(&[2, 0, 3])),
            message(gather(&[2, 3], 0, (2, 1))),
            message(gather(&[2, 3], 1, (3, 1))),
            message(scatter_into(&[2, 1, 4], &[2, 3, 5], (2, 1))),
            message(index_rows(&[vec![1], vec![1, 2]])),
            message(index_below("gather", 3, 3)),
            message(upsample_nearest(&[1, 1, 0, 2], 2, 2)),
            message(embedding(&[3], (1, 1))),
            message(linear(&[2, 3], &[4, 2], None)),
            message(linear(&[2, 3], &[4, 3], Some(&[3]))),
            message(halves("geglu", &[3])),
            message(scores("votes", &[1, 2, 3], [1, 2, 4])),
            message(from_bytes(11, DType::F16, &[2, 3])),
        ];
        for line in lines {
            assert!(!line.contains('\n') && line.contains(": expected "), "{line}");
        }
        assert_eq!(
            message(matmul(&[2, 3], &[2, 3])),
            "matmul: expected [.., 3, n] to the right of [2, 3], got shape [2, 3]"
        );
    }
}
