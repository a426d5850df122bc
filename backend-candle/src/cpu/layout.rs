//! Contiguous copies of tensors whose last axes are swapped: an image seen as tokens, and tokens seen as an image.

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;

use super::cast::cast;
use super::number::Number;
use super::pool::each;
use super::view::{View, takes};

/// The tensor, contiguous. A tensor that is contiguous already is not copied.
pub(crate) fn dense(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() || !takes(&[x]) {
        return x.contiguous();
    }
    match (swapped(x), x.dtype()) {
        (Some(sizes), DType::F32) => copied::<f32>(x, sizes),
        (Some(sizes), DType::BF16) => copied::<bf16>(x, sizes),
        _ => x.contiguous(),
    }
}

/// The tensor in f32 and contiguous. A tensor that already has this form is not copied.
pub(crate) fn dense_f32(x: &Tensor) -> Result<Tensor> {
    dense(&cast(x, DType::F32)?)
}

/// `[batch, rows, columns]` if the tensor's memory is a contiguous `[batch, columns, rows]`. Axes that follow each other in
/// memory count as one: height and width are the rows of an image seen as tokens.
fn swapped(x: &Tensor) -> Option<[usize; 3]> {
    let mut axes: Vec<(usize, usize)> = Vec::with_capacity(4);
    for (&len, &stride) in x.dims().iter().zip(x.stride()).filter(|&(&len, _)| len != 1) {
        match axes.last_mut() {
            Some(last) if last.1 == len * stride => *last = (last.0 * len, stride),
            _ => axes.push((len, stride)),
        }
    }
    match axes[..] {
        [(rows, 1), (columns, across)] if across == rows => Some([1, rows, columns]),
        [(batch, by_batch), (rows, 1), (columns, across)] if across == rows && by_batch == rows * columns => {
            Some([batch, rows, columns])
        }
        _ => None,
    }
}

/// Rows of one task, and of a square that is copied at once.
const ROWS: usize = 64;
const SIDE: usize = 16;

fn copied<N: Number>(x: &Tensor, [batch, rows, columns]: [usize; 3]) -> Result<Tensor> {
    let view = View::new(x)?;
    let from = view.data::<N>();
    let mut to = N::zeros(batch * rows * columns);
    if let Some(from) = from.get(..to.len()).filter(|from| !from.is_empty()) {
        let matrices = to.chunks_mut(rows * columns).zip(from.chunks(rows * columns));
        let tasks = matrices.flat_map(|(to, from)| {
            to.chunks_mut(ROWS * columns).enumerate().map(move |(at, to)| (to, &from[at * ROWS..]))
        });
        each(tasks, |(to, from)| {
            for (part, to) in to.chunks_mut(SIDE * columns).enumerate() {
                square(to, &from[part * SIDE..], (rows, columns));
            }
        });
    }
    Tensor::from_vec(to, x.dims(), &Device::Cpu)
}

/// Writes some rows of `to` from columns of `from`, which lie `rows` apart.
fn square<N: Number>(to: &mut [N], from: &[N], (rows, columns): (usize, usize)) {
    for first in (0..columns).step_by(SIDE) {
        let len = SIDE.min(columns - first);
        for (i, to) in to.chunks_mut(columns).enumerate() {
            let column = from[first * rows + i..].iter().step_by(rows);
            to[first..first + len].iter_mut().zip(column).for_each(|(to, from)| *to = *from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_axes_are_copied_in_order() {
        for (batch, rows, columns) in [(1, 1, 1), (2, 3, 5), (1, 70, 33), (3, 130, 17), (1, 5, 0)] {
            let x = Tensor::arange(0f32, (batch * rows * columns) as f32, &Device::Cpu).unwrap();
            let x = x.reshape((batch, columns, rows)).unwrap();
            for dtype in [DType::F32, DType::BF16] {
                let x = x.to_dtype(dtype).unwrap().transpose(1, 2).unwrap();
                let to_f32 = |x: Tensor| x.to_dtype(DType::F32).unwrap().to_vec3::<f32>().unwrap();
                let found = dense(&x).unwrap();
                assert!(found.is_contiguous());
                assert_eq!(to_f32(found), to_f32(x.contiguous().unwrap()));
            }
        }
        // height and width of an image are the rows of its tokens
        for (shape, order) in [((2, 5, 6, 7), [0, 2, 3, 1]), ((2, 6, 7, 5), [0, 3, 1, 2])] {
            let x = Tensor::arange(0f32, 420., &Device::Cpu).unwrap().reshape(shape).unwrap();
            let x = x.permute(order).unwrap();
            assert!(swapped(&x).is_some());
            let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&dense(&x).unwrap()), flat(&x.contiguous().unwrap()));
        }
        // a part of a larger tensor
        let whole = Tensor::arange(0f32, 24., &Device::Cpu).unwrap().reshape((2, 3, 4)).unwrap();
        let part = whole.narrow(1, 1, 2).unwrap().transpose(1, 2).unwrap();
        assert_eq!(dense(&part).unwrap().to_vec3::<f32>().unwrap(), part.to_vec3::<f32>().unwrap());
    }
}
