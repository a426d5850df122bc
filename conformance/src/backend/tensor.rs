//! Checks of arithmetic, products, softmax and reductions, and of their conventions.

use atedm_core::{Backend, DType, DeviceOf, Result, Tensor};

use super::support::{Lab, TensorOf, as_view, rejects, rejects_dtype};
use crate::host::Array;
use crate::oracle;
use crate::tolerance::{assert_close, assert_exact};

/// Axes of length 1 broadcast, on either side and on every axis.
pub fn arithmetic_broadcasts_length_one_axes<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 1);
    let full = [2, 3, 4];
    // every pair of sets of length-1 axes
    for mask in 0..64 {
        let shape = |bits: usize| [0, 1, 2].map(|axis| if bits >> axis & 1 == 1 { 1 } else { full[axis] });
        let (a, b) = (lab.normals(&shape(mask & 7))?, lab.uniforms(&shape(mask >> 3), 0.5, 2.0)?);
        let expect = |f: fn(f64, f64) -> f64| oracle::binary(&a.host, &b.host, f);
        assert_close(&a.on.add(&b.on)?, &expect(|a, b| a + b), "add");
        assert_close(&a.on.sub(&b.on)?, &expect(|a, b| a - b), "sub");
        assert_close(&a.on.mul(&b.on)?, &expect(|a, b| a * b), "mul");
        assert_close(&a.on.div(&b.on)?, &expect(|a, b| a / b), "div");
    }
    let (a, b) = (lab.normals(&[3, 4, 5])?, lab.normals(&[5, 4, 3])?);
    let (view, host) = (b.on.permute(&[2, 1, 0])?, oracle::permute(&b.host, &[2, 1, 0]));
    assert_close(&a.on.sub(&view)?, &oracle::binary(&a.host, &host, |a, b| a - b), "sub of a view");
    Ok(())
}

/// Other lengths and missing axes do not broadcast.
pub fn only_length_one_axes_broadcast<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 2);
    let x = lab.counting(&[2, 4, 3])?.on;
    for shape in [&[2, 2, 3][..], &[4, 4, 3], &[2, 4, 6], &[4, 3], &[3], &[1, 2, 4, 3], &[1]] {
        let y = lab.counting(shape)?.on;
        rejects(&format!("add {shape:?}"), || x.add(&y));
        rejects(&format!("sub {shape:?}"), || x.sub(&y));
        rejects(&format!("mul {shape:?}"), || x.mul(&y));
        rejects(&format!("div {shape:?}"), || x.div(&y));
        rejects(&format!("{shape:?} on the left"), || y.add(&x));
    }
    Ok(())
}

/// Operands of two dtypes are an error in every operation with two operands.
pub fn no_dtype_is_promoted<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    use atedm_core::NnOps;
    use atedm_core::backend::Conv2dOptions;
    let lab = Lab::<B>::new(device, dtype, 3);
    let Some(other) = lab.other_dtype() else {
        // with only one dtype there is nothing to promote
        return Ok(());
    };
    let (x, y) = (lab.counting(&[2, 3, 3])?.on, TensorOf::<B>::full(1.0, &[2, 3, 3], other, device)?);
    rejects_dtype("add", || x.add(&y));
    rejects_dtype("sub", || x.sub(&y));
    rejects_dtype("mul", || x.mul(&y));
    rejects_dtype("div", || x.div(&y));
    rejects_dtype("matmul", || x.matmul(&y));
    rejects_dtype("concat", || TensorOf::<B>::concat(&[&x, &y], 1));
    let at = lab.indices(&[vec![0, 1, 2], vec![2, 1, 0]])?;
    rejects_dtype("scatter_into", || y.scatter_into(&x, &at));
    let (weight, bias) = (y.narrow(0, 0, 1)?.reshape(&[3, 3])?, y.reshape(&[18])?.narrow(0, 0, 3)?);
    rejects_dtype("linear", || x.linear(&weight, None));
    rejects_dtype("bias of linear", || x.linear(&weight.cast(dtype)?, Some(&bias)));
    let image = x.reshape(&[1, 2, 3, 3])?;
    let kernel = y.reshape(&[1, 2, 3, 3])?;
    rejects_dtype("conv2d", || image.conv2d(&kernel, None, Conv2dOptions::same(3)));
    Ok(())
}

/// Element-wise functions.
pub fn affine_exp_ln_sqrt<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 4);
    let x = lab.normals(&[3, 5])?;
    assert_close(&x.on.affine(-1.5, 0.25)?, &x.host.map(|x| -1.5 * x + 0.25), "affine");
    assert_close(&x.on.exp()?, &x.host.map(f64::exp), "exp");
    let y = lab.uniforms(&[3, 5], 0.1, 4.0)?;
    assert_close(&y.on.ln()?, &y.host.map(f64::ln), "ln");
    assert_close(&y.on.sqrt()?, &y.host.map(f64::sqrt), "sqrt");
    let view = y.on.permute(&[1, 0])?;
    assert_close(&view.sqrt()?, &oracle::permute(&y.host, &[1, 0]).map(f64::sqrt), "sqrt of a view");
    let edge = lab.sample(Array::new(&[3], vec![0.0, 1.0, f64::INFINITY]))?;
    assert_exact(&edge.on.ln()?, &edge.host.map(f64::ln), "ln of 0 and infinity");
    assert_exact(
        &edge.on.affine(-1.0, 0.0)?.exp()?.narrow(0, 2, 1)?,
        &Array::full(&[1], 0.0),
        "exp of -infinity",
    );
    Ok(())
}

/// Values below the bound become the bound. NaN stays NaN.
pub fn clamp_min_keeps_nan<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 5);
    let values = vec![-1.0, 0.0, 0.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.25];
    let x = lab.sample(Array::new(&[7], values))?;
    let expected = Array::new(&[7], vec![0.25, 0.25, 0.5, f64::NAN, f64::INFINITY, 0.25, 0.25]);
    assert_exact(&x.on.clamp_min(0.25)?, &expected, "clamp_min");
    Ok(())
}

/// Products of matrices, of stacks of them, and of stacks of stacks.
pub fn matmul_of_two_to_four_axes<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 6);
    for (left, right) in [
        (&[5, 7][..], &[7, 3][..]),
        (&[1, 9], &[9, 1]),
        (&[2, 5, 7], &[2, 7, 3]),
        (&[2, 3, 1, 7], &[2, 3, 7, 5]),
        (&[1, 2, 33, 17], &[1, 2, 17, 19]),
    ] {
        let a = lab.weights(left, left[left.len() - 1])?;
        let b = lab.normals(right)?;
        assert_close(
            &a.on.matmul(&b.on)?,
            &oracle::matmul(&a.host, &b.host),
            &format!("{left:?} x {right:?}"),
        );
    }
    Ok(())
}

/// Transposed, narrowed and expanded operands are multiplied by their visible values, not by the layout in memory.
pub fn matmul_of_views<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 7);
    let a = lab.weights(&[2, 3, 5, 7], 7)?;
    let b = lab.normals(&[2, 3, 4, 7])?;
    let transposed = b.on.permute(&[0, 1, 3, 2])?;
    let expected = oracle::matmul(&a.host, &oracle::permute(&b.host, &[0, 1, 3, 2]));
    assert_close(&a.on.matmul(&transposed)?, &expected, "transposed on the right");
    assert_close(&as_view(&a.on)?.matmul(&as_view(&transposed)?)?, &expected, "both swapped in memory");
    let heads = a.on.permute(&[0, 2, 1, 3])?.permute(&[0, 2, 1, 3])?.narrow(2, 1, 3)?;
    assert_close(&heads.matmul(&transposed)?, &oracle::narrow(&expected, 2, 1, 3), "narrowed rows");
    let split = a.on.permute(&[0, 2, 1, 3])?.reshape(&[2, 5, 21])?;
    let expected = oracle::permute(&a.host, &[0, 2, 1, 3]).reshaped(&[2, 5, 21]);
    let right = lab.normals(&[2, 21, 2])?;
    assert_close(&split.matmul(&right.on)?, &oracle::matmul(&expected, &right.host), "merged heads");
    Ok(())
}

/// Inner lengths, leading axes and numbers of axes must agree.
pub fn matmul_rejects_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 8);
    let x = lab.counting(&[2, 3, 4])?.on;
    for shape in [&[2, 3, 4][..], &[3, 4, 3], &[1, 4, 3], &[4, 3], &[1, 2, 4, 3], &[4]] {
        let y = lab.counting(shape)?.on;
        rejects(&format!("[2, 3, 4] x {shape:?}"), || x.matmul(&y));
    }
    let line = lab.counting(&[4])?.on;
    rejects("[4] x [4]", || line.matmul(&line));
    Ok(())
}

/// Softmax over the last axis, in the tensor's dtype.
pub fn softmax_of_the_last_axis<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 9);
    for shape in [&[9][..], &[3, 5], &[2, 3, 1], &[2, 3, 4, 7]] {
        let x = lab.normals(shape)?;
        assert_eq!(x.on.softmax()?.dtype(), dtype);
        assert_close(&x.on.softmax()?, &oracle::softmax(&x.host), "softmax");
    }
    let x = lab.normals(&[2, 5, 3])?;
    assert_close(
        &x.on.permute(&[0, 2, 1])?.softmax()?,
        &oracle::softmax(&oracle::permute(&x.host, &[0, 2, 1])),
        "softmax of a view",
    );
    Ok(())
}

/// Logits whose exponentials overflow the dtype, and masked logits.
pub fn softmax_of_large_logits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 10);
    let low = f64::NEG_INFINITY;
    let x = lab.sample(Array::new(&[3, 3], vec![800.0, 799.0, -800.0, 0.0, low, 1.0, -9000.0, low, low]))?;
    assert_close(&x.on.softmax()?, &oracle::softmax(&x.host), "softmax");
    Ok(())
}

/// Sum, maximum and mean over every axis. The axis stays, with length 1.
pub fn reductions_keep_the_axis<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 11);
    let x = lab.normals(&[2, 3, 4, 5])?;
    let (view, host) = (x.on.permute(&[3, 1, 0, 2])?, oracle::permute(&x.host, &[3, 1, 0, 2]));
    for axis in 0..4 {
        assert_close(&x.on.sum(axis)?, &oracle::sum(&x.host, axis), "sum");
        assert_close(&x.on.mean(axis)?, &oracle::mean(&x.host, axis), "mean");
        assert_exact(&x.on.max(axis)?, &oracle::max(&x.host, axis), "max");
        assert_close(&view.sum(axis)?, &oracle::sum(&host, axis), "sum of a view");
        assert_exact(&view.max(axis)?, &oracle::max(&host, axis), "max of a view");
        assert_eq!(x.on.sum(axis)?.dtype(), dtype);
    }
    Ok(())
}

/// A sum of many small numbers must not stall when one more number is below its rounding.
pub fn half_precision_sums_do_not_stall<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 12);
    let x = lab.sample(Array::full(&[2, 5000], 1.0))?;
    assert_close(&x.on.mean(1)?, &Array::full(&[2, 1], 1.0), "mean of ones");
    let ones = lab.sample(Array::full(&[5000, 1], 1.0 / 1024.0))?;
    assert_close(&x.on.matmul(&ones.on)?, &Array::full(&[2, 1], 5000.0 / 1024.0), "product with ones");
    Ok(())
}

/// Axes that do not exist are errors.
pub fn wrong_axes_are_errors<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 13);
    let x = lab.counting(&[2, 3])?.on;
    for axis in [2, 7, usize::MAX] {
        rejects("sum", || x.sum(axis));
        rejects("max", || x.max(axis));
        rejects("mean", || x.mean(axis));
    }
    Ok(())
}

/// No operation changes its operands, or another handle on them.
pub fn nothing_works_in_place<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 14);
    let (x, y) = (lab.uniforms(&[2, 4, 4], 0.5, 1.0)?, lab.uniforms(&[2, 4, 4], 0.5, 1.0)?);
    let copy = x.on.clone();
    let at = lab.indices(&[vec![1, 3], vec![0, 2]])?;
    for unary in
        [|x: &TensorOf<B>| x.affine(2.0, 1.0), TensorOf::<B>::exp, TensorOf::<B>::ln, TensorOf::<B>::sqrt]
    {
        unary(&unary(&x.on)?)?;
    }
    x.on.clamp_min(1.0)?;
    x.on.softmax()?.affine(0.0, 0.0)?;
    for binary in [TensorOf::<B>::add, TensorOf::<B>::sub, TensorOf::<B>::mul, TensorOf::<B>::div] {
        binary(&x.on, &y.on)?.affine(0.0, 0.0)?;
    }
    x.on.matmul(&y.on)?.affine(0.0, 0.0)?;
    for reduced in [x.on.sum(1)?, x.on.max(1)?, x.on.mean(1)?] {
        reduced.affine(0.0, 0.0)?;
    }
    x.on.reshape(&[2, 16])?.affine(0.0, 0.0)?;
    x.on.permute(&[0, 2, 1])?.affine(0.0, 0.0)?;
    x.on.cast(dtype)?.exp()?;
    y.on.gather(1, &at)?.scatter_into(&x.on, &at)?;
    TensorOf::<B>::concat(&[&x.on, &y.on], 1)?.affine(0.0, 0.0)?;
    x.on.narrow(1, 1, 2)?.affine(0.0, 0.0)?;
    for (tensor, sample) in [(&x.on, &x), (&copy, &x), (&y.on, &y)] {
        assert_exact(tensor, &sample.host, "an operand afterwards");
    }
    Ok(())
}
