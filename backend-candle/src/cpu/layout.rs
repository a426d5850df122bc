//! Contiguous copies of tensors whose last axes are swapped: an image seen as tokens, and tokens seen as an image.

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::cast::cast;
use super::number::Number;
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

/// `[batch, rows, columns]` if the tensor is a contiguous `[batch, columns, rows]` with its last axes swapped.
fn swapped(x: &Tensor) -> Option<[usize; 3]> {
    match (x.dims(), x.stride()) {
        (&[batch, rows, columns], &[by_batch, 1, across])
            if across == rows && (by_batch == rows * columns || batch == 1) =>
        {
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
        let tasks = to.par_chunks_mut(rows * columns).zip(from.par_chunks(rows * columns));
        tasks.for_each(|(to, from)| {
            to.par_chunks_mut(ROWS * columns).enumerate().for_each(|(at, to)| {
                for (part, to) in to.chunks_mut(SIDE * columns).enumerate() {
                    square(to, &from[at * ROWS + part * SIDE..], (rows, columns));
                }
            });
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
        // a part of a larger tensor
        let whole = Tensor::arange(0f32, 24., &Device::Cpu).unwrap().reshape((2, 3, 4)).unwrap();
        let part = whole.narrow(1, 1, 2).unwrap().transpose(1, 2).unwrap();
        assert_eq!(dense(&part).unwrap().to_vec3::<f32>().unwrap(), part.to_vec3::<f32>().unwrap());
    }
}
