//! Checks of the operations of a U-Net, an autoencoder and a text encoder, and of overrides against generic bodies.

use atedm_core::backend::{Conv2dOptions, generic};
use atedm_core::{Backend, DType, DeviceOf, Indices, NnOps, Result, Tensor};

use super::support::{IndicesOf, Lab, TensorOf, as_view, rejects};
use crate::host::Array;
use crate::oracle;
use crate::tolerance::{assert_close, assert_exact};

/// Kernels of 1 to 4, strides, uneven padding, one and many channels, images smaller than the kernel, batches, views.
pub fn conv2d_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 1);
    let uneven = Conv2dOptions { stride: 2, pad_before: 0, pad_after: 1 };
    let cases = [
        ([1, 1, 1, 1], [1, 1, 1], Conv2dOptions::same(1)),
        ([2, 5, 4, 7], [3, 1, 1], Conv2dOptions::same(1)),
        ([1, 3, 6, 5], [4, 3, 3], Conv2dOptions::same(3)),
        ([2, 4, 9, 11], [7, 3, 3], Conv2dOptions::same(3)),
        ([1, 33, 5, 6], [17, 3, 3], Conv2dOptions::same(3)),
        ([2, 4, 7, 8], [4, 3, 3], Conv2dOptions::strided(2, 1)),
        ([1, 4, 8, 8], [4, 3, 3], Conv2dOptions::strided(2, 1)),
        ([2, 3, 7, 8], [5, 3, 3], uneven),
        ([1, 2, 9, 9], [3, 3, 3], Conv2dOptions::strided(3, 0)),
        ([1, 2, 2, 1], [3, 3, 3], Conv2dOptions::same(3)),
        ([1, 3, 6, 7], [2, 5, 5], Conv2dOptions::same(5)),
        ([1, 2, 5, 6], [3, 2, 4], Conv2dOptions { stride: 1, pad_before: 2, pad_after: 1 }),
        ([1, 8, 33, 35], [9, 3, 3], Conv2dOptions::same(3)),
    ];
    for (shape, [channels, height, width], options) in cases {
        let x = lab.normals(&shape)?;
        let weight = lab.weights(&[channels, shape[1], height, width], shape[1] * height * width)?;
        let bias = lab.normals(&[channels])?;
        let what = format!("{shape:?} {:?} {options:?}", weight.host.shape);
        let expected = oracle::conv2d(&x.host, &weight.host, Some(&bias.host), options);
        assert_eq!(expected.shape[2], options.output_len(shape[2], height));
        assert_close(&x.on.conv2d(&weight.on, Some(&bias.on), options)?, &expected, &what);
        assert_close(&as_view(&x.on)?.conv2d(&weight.on, Some(&bias.on), options)?, &expected, "of a view");
        let laid_out = weight.on.clone().conv2d_weight()?;
        assert_exact(&laid_out, &weight.host, "a weight laid out for conv2d");
        assert_close(&x.on.conv2d(&laid_out, Some(&bias.on), options)?, &expected, &what);
        let expected = oracle::conv2d(&x.host, &weight.host, None, options);
        assert_close(&x.on.conv2d(&weight.on, None, options)?, &expected, &what);
    }
    Ok(())
}

/// Misfits are errors: channels, axes, strides and kernels that do not fit.
pub fn conv2d_rejects_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 2);
    let (x, weight) = (lab.counting(&[1, 3, 5, 5])?.on, lab.counting(&[4, 3, 3, 3])?.on);
    let same = Conv2dOptions::same(3);
    rejects("other channels", || x.conv2d(&lab.counting(&[4, 2, 3, 3])?.on, None, same));
    rejects("three axes", || x.reshape(&[3, 5, 5])?.conv2d(&weight, None, same));
    rejects("a flat kernel", || x.conv2d(&weight.reshape(&[4, 27])?, None, same));
    rejects("another bias", || x.conv2d(&weight, Some(&lab.counting(&[3])?.on), same));
    rejects("stride 0", || x.conv2d(&weight, None, Conv2dOptions { stride: 0, ..same }));
    rejects("padding beyond counting", || x.conv2d(&weight, None, Conv2dOptions::strided(1, usize::MAX)));
    let large = lab.counting(&[4, 3, 7, 7])?.on;
    rejects("a kernel above the padded image", || x.conv2d(&large, None, Conv2dOptions::strided(1, 0)));
    Ok(())
}

/// Whole factors, fractions, one direction only, smaller sizes.
pub fn upsample_nearest_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 3);
    let x = lab.normals(&[2, 3, 4, 5])?;
    for (height, width) in [(8, 10), (12, 20), (7, 9), (4, 5), (4, 11), (9, 5), (3, 2), (1, 1)] {
        let expected = oracle::upsample_nearest(&x.host, height, width);
        assert_exact(&x.on.upsample_nearest(height, width)?, &expected, &format!("{height} x {width}"));
        assert_exact(&as_view(&x.on)?.upsample_nearest(height, width)?, &expected, "of a view");
    }
    rejects("three axes", || x.on.reshape(&[6, 4, 5])?.upsample_nearest(8, 8));
    Ok(())
}

/// Rows of a table, with repeats. Ids beyond the table are errors.
pub fn embedding_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 4);
    let table = lab.normals(&[11, 6])?;
    let ids = vec![vec![3, 10, 0, 3, 3], vec![1, 2, 3, 4, 5]];
    let got = table.on.embedding(&lab.indices(&ids)?)?;
    assert_exact(&got, &oracle::embedding(&table.host, &ids), "embedding");
    rejects("an id beyond the table", || table.on.embedding(&lab.indices(&[vec![0, 11]])?)?.to_bytes());
    rejects("a table of three axes", || table.on.reshape(&[11, 2, 3])?.embedding(&lab.indices(&ids)?));
    Ok(())
}

/// GELU with the error function, SiLU and quick GELU, also for large values.
pub fn activations_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 5);
    let far = lab.sample(Array::new(&[2, 3], vec![-30.0, -9.0, -5.0, 5.0, 9.0, 30.0]))?;
    let near = lab.normals(&[4, 7, 3])?;
    for x in [&near, &far] {
        assert_close(&x.on.gelu()?, &x.host.map(oracle::gelu), "gelu");
        assert_close(&x.on.silu()?, &x.host.map(oracle::silu), "silu");
        assert_close(&x.on.quick_gelu()?, &x.host.map(oracle::quick_gelu), "quick_gelu");
        assert_close(&as_view(&x.on)?.gelu()?, &x.host.map(oracle::gelu), "gelu of a view");
        assert_close(&as_view(&x.on)?.silu()?, &x.host.map(oracle::silu), "silu of a view");
    }
    Ok(())
}

/// Linear maps of tensors with one to four axes.
pub fn linear_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 6);
    let (weight, bias) = (lab.weights(&[5, 7], 7)?, lab.normals(&[5])?);
    let packed = weight.on.clone().linear_weight()?;
    assert_eq!((packed.shape(), packed.dtype()), (weight.on.shape(), weight.on.dtype()));
    for shape in [&[7][..], &[1, 7], &[3, 7], &[2, 9, 7], &[2, 1, 3, 7]] {
        let x = lab.normals(shape)?;
        let expected = oracle::linear(&x.host, &weight.host, Some(&bias.host));
        assert_close(&x.on.linear(&weight.on, Some(&bias.on))?, &expected, &format!("{shape:?}"));
        assert_close(&x.on.linear(&packed, Some(&bias.on))?, &expected, "with a packed weight");
        let expected = oracle::linear(&x.host, &weight.host, None);
        assert_close(&x.on.linear(&weight.on, None)?, &expected, "without bias");
        assert_close(&x.on.linear(&packed, None)?, &expected, "with a packed weight, without bias");
    }
    let x = lab.normals(&[2, 7, 4])?;
    let expected = oracle::linear(&oracle::permute(&x.host, &[0, 2, 1]), &weight.host, Some(&bias.host));
    let view = x.on.permute(&[0, 2, 1])?;
    assert_close(&view.linear(&weight.on, Some(&bias.on))?, &expected, "of a view");
    assert_close(&view.linear(&packed, Some(&bias.on))?, &expected, "of a view, with a packed weight");
    rejects("a packed weight of another width", || x.on.linear(&packed, None));
    Ok(())
}

/// Layer norm over the last axis.
pub fn layer_norm_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 7);
    for shape in [&[9][..], &[3, 16], &[2, 3, 33], &[1, 2, 2, 5]] {
        let channels = shape[shape.len() - 1];
        let (x, weight, bias) = (lab.normals(shape)?, lab.normals(&[channels])?, lab.normals(&[channels])?);
        let expected = oracle::layer_norm(&x.host, &weight.host, &bias.host, 1e-5);
        let got = x.on.layer_norm(&weight.on, &bias.on, 1e-5)?;
        assert_eq!(got.dtype(), dtype);
        assert_close(&got, &expected, &format!("{shape:?}"));
        if shape.len() > 1 {
            assert_close(&as_view(&x.on)?.layer_norm(&weight.on, &bias.on, 1e-5)?, &expected, "of a view");
        }
    }
    Ok(())
}

/// Group norm, alone and followed by SiLU: one group, one group per channel, and numbers in between.
pub fn group_norm_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 8);
    for (shape, groups) in
        [(&[2, 6, 3, 5][..], 3), (&[1, 6, 4, 4], 1), (&[2, 6, 7, 1], 6), (&[2, 8, 5], 2), (&[3, 4], 2)]
    {
        let (x, weight, bias) = (lab.normals(shape)?, lab.normals(&[shape[1]])?, lab.normals(&[shape[1]])?);
        let expected = oracle::group_norm(&x.host, groups, &weight.host, &bias.host, 1e-6);
        let got = x.on.group_norm(groups, &weight.on, &bias.on, 1e-6)?;
        assert_eq!(got.dtype(), dtype);
        assert_close(&got, &expected, &format!("{shape:?}"));
        assert_close(
            &as_view(&x.on)?.group_norm(groups, &weight.on, &bias.on, 1e-6)?,
            &expected,
            "of a view",
        );
        let activated = x.on.group_norm_silu(groups, &weight.on, &bias.on, 1e-6)?;
        assert_close(&activated, &expected.map(oracle::silu), "group_norm_silu");
    }
    Ok(())
}

/// Statistics are computed in the accumulator dtype. The squares of these values overflow or cancel in half precision.
pub fn norms_far_from_zero<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 9);
    let far = lab.draws.normals(&[2, 8, 40]).map(|x| 300.0 + 30.0 * x);
    let x = lab.sample(far)?;
    let (weight, bias) = (lab.normals(&[40])?, lab.normals(&[40])?);
    let expected = oracle::layer_norm(&x.host, &weight.host, &bias.host, 1e-5);
    assert_close(&x.on.layer_norm(&weight.on, &bias.on, 1e-5)?, &expected, "layer norm");
    let (weight, bias) = (lab.normals(&[8])?, lab.normals(&[8])?);
    let expected = oracle::group_norm(&x.host, 4, &weight.host, &bias.host, 1e-5);
    assert_close(&x.on.group_norm(4, &weight.on, &bias.on, 1e-5)?, &expected, "group norm");
    Ok(())
}

/// Values so small that epsilon is as large as their variance. The given epsilon must be added to the variance.
pub fn norms_near_zero<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 14);
    let near = lab.draws.normals(&[2, 8, 40]).map(|x| x / 256.0);
    let x = lab.sample(near)?;
    let ([wide, wide_shift], [narrow, narrow_shift]) =
        ([lab.normals(&[40])?, lab.normals(&[40])?], [lab.normals(&[8])?, lab.normals(&[8])?]);
    for epsilon in [1e-5, 1e-6] {
        let expected = oracle::layer_norm(&x.host, &wide.host, &wide_shift.host, epsilon);
        let what = format!("layer norm, epsilon {epsilon}");
        assert_close(&x.on.layer_norm(&wide.on, &wide_shift.on, epsilon)?, &expected, &what);
        let expected = oracle::group_norm(&x.host, 4, &narrow.host, &narrow_shift.host, epsilon);
        let what = format!("group norm, epsilon {epsilon}");
        assert_close(&x.on.group_norm(4, &narrow.on, &narrow_shift.on, epsilon)?, &expected, &what);
        let activated = x.on.group_norm_silu(4, &narrow.on, &narrow_shift.on, epsilon)?;
        assert_close(&activated, &expected.map(oracle::silu), &format!("{what}, silu"));
    }
    Ok(())
}

/// The first half, times the GELU of the second half.
pub fn geglu_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 10);
    let (weight, bias) = (lab.weights(&[10, 7], 7)?, lab.normals(&[10])?);
    let packed = weight.on.clone().linear_weight()?;
    for shape in [&[7][..], &[3, 7], &[2, 9, 7]] {
        let x = lab.normals(shape)?;
        let expected = oracle::geglu(&x.host, &weight.host, Some(&bias.host));
        assert_close(&x.on.geglu(&weight.on, Some(&bias.on))?, &expected, &format!("{shape:?}"));
        assert_close(&x.on.geglu(&packed, Some(&bias.on))?, &expected, "with a packed weight");
        assert_close(
            &x.on.geglu(&weight.on, None)?,
            &oracle::geglu(&x.host, &weight.host, None),
            "without bias",
        );
    }
    Ok(())
}

/// Every method of `NnOps` with a default agrees with its generic body on odd sizes.
pub fn nn_overrides_equal_the_generic_bodies<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 11);
    for (tokens, channels) in [(1, 3), (13, 35), (67, 129)] {
        let x = lab.normals(&[2, tokens, channels])?.on;
        let (weight, bias) =
            (lab.weights(&[2 * channels, channels], channels)?.on, lab.normals(&[2 * channels])?.on);
        let (scale, shift) = (lab.normals(&[channels])?.on, lab.normals(&[channels])?.on);
        let same = |got: TensorOf<B>, body: TensorOf<B>, what: &str| -> Result<()> {
            assert_close(&got, &Array::read(&body)?, &format!("{what}, {tokens} x {channels}"));
            Ok(())
        };
        same(x.linear(&weight, Some(&bias))?, generic::linear(&x, &weight, Some(&bias))?, "linear")?;
        same(x.geglu(&weight, Some(&bias))?, generic::geglu(&x, &weight, Some(&bias))?, "geglu")?;
        same(x.quick_gelu()?, generic::quick_gelu(&x)?, "quick_gelu")?;
        same(
            x.layer_norm(&scale, &shift, 1e-5)?,
            generic::layer_norm(&x, &scale, &shift, 1e-5)?,
            "layer_norm",
        )?;
        let image = x.permute(&[0, 2, 1])?.reshape(&[2, channels, tokens, 1])?;
        let body = generic::group_norm(&image, 1, &scale, &shift, 1e-5)?;
        same(image.group_norm(1, &scale, &shift, 1e-5)?, body.clone(), "group_norm")?;
        same(image.group_norm_silu(1, &scale, &shift, 1e-5)?, body.silu()?, "group_norm_silu")?;
    }
    Ok(())
}

/// Every method of `Tensor` and `Indices` with a default agrees with its generic body.
pub fn tensor_overrides_equal_the_generic_bodies<B: Backend>(
    device: &DeviceOf<B>,
    dtype: DType,
) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 12);
    let values: Vec<f32> = lab.draws.normals(&[37]).data.iter().map(|&x| x as f32).collect();
    let x = TensorOf::<B>::from_f32(&values, &[37], dtype, device)?;
    let body: TensorOf<B> = generic::from_f32(&values, &[37], dtype, device)?;
    assert_eq!(x.to_bytes()?, body.to_bytes()?, "from_f32");
    assert_eq!(x.to_f32()?, generic::to_f32(&x)?, "to_f32");
    let x = lab.normals(&[2, 11, 33])?.on;
    assert_close(&x.softmax()?, &Array::read(&generic::softmax(&x)?)?, "softmax");
    for axis in 0..3 {
        let body = x.sum(axis)?.affine(1.0 / x.shape()[axis] as f64, 0.0)?;
        assert_close(&x.mean(axis)?, &Array::read(&body)?, "mean");
    }
    let rows = lab.normals(&[2, 4, 33])?.on;
    let at = lab.indices(&[vec![7, 0, 10, 3], vec![1, 2, 9, 4]])?;
    let body = generic::scatter_into(&rows, &x, &at)?;
    assert_exact(&rows.scatter_into(&x, &at)?, &Array::read(&body)?, "scatter_into");
    let order = lab.indices(&[vec![2, 0, 1, 3], vec![3, 2, 1, 0]])?;
    let same = |got: IndicesOf<B>, body: IndicesOf<B>, what: &str| -> Result<()> {
        assert_eq!(got.to_host()?, body.to_host()?, "{what}");
        Ok(())
    };
    same(at.gather(&order)?, generic::indices_gather(&at, &order)?, "gather")?;
    same(IndicesOf::<B>::concat(&[&at, &order])?, generic::indices_concat(&[&at, &order])?, "concat")?;
    same(at.complement(11)?, generic::indices_complement(&at, 11)?, "complement")?;
    same(order.inverse()?, generic::indices_inverse(&order)?, "inverse")
}

/// Misfits are errors: weights that do not fit.
pub fn nn_rejects_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 13);
    let of = |shape: &[usize]| -> Result<TensorOf<B>> { Ok(lab.counting(shape)?.on) };
    let x = of(&[2, 3, 4])?;
    rejects("linear of another width", || x.linear(&of(&[5, 3])?, None));
    rejects("linear with a weight of three axes", || x.linear(&of(&[1, 5, 4])?, None));
    rejects("linear with another bias", || x.linear(&of(&[5, 4])?, Some(&of(&[4])?)));
    rejects("geglu of an odd width", || x.geglu(&of(&[5, 4])?, None));
    rejects("layer norm with another weight", || x.layer_norm(&of(&[3])?, &of(&[4])?, 1e-5));
    rejects("layer norm with another bias", || x.layer_norm(&of(&[4])?, &of(&[1])?, 1e-5));
    rejects("group norm with groups that do not divide", || x.group_norm(2, &of(&[3])?, &of(&[3])?, 1e-5));
    rejects("group norm with no groups", || x.group_norm(0, &of(&[3])?, &of(&[3])?, 1e-5));
    rejects("group norm with another weight", || x.group_norm(3, &of(&[4])?, &of(&[3])?, 1e-5));
    Ok(())
}
