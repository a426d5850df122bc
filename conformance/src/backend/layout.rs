//! Checks of host input and output, casts, shapes and views.

use atedm_core::{Backend, DType, DeviceOf, Result, Tensor};

use super::support::{Lab, TensorOf, rejects};
use crate::host::Array;
use crate::oracle;
use crate::tolerance::assert_exact;

/// Bytes are read back unchanged, and their number is checked.
pub fn bytes_round_trip<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 1);
    for shape in [&[7][..], &[1], &[3, 5], &[2, 1, 3], &[2, 3, 1, 5]] {
        let x = lab.normals(shape)?;
        assert_eq!(x.on.dtype(), dtype);
        assert_eq!(x.on.shape(), shape);
        assert_eq!(x.on.to_bytes()?, x.host.bytes(dtype));
    }
    let size = dtype.size_in_bytes();
    for wrong in [0, size, 6 * size - 1, 6 * size + size] {
        let bytes = vec![0; wrong];
        rejects("too few or too many bytes", || TensorOf::<B>::from_bytes(&bytes, dtype, &[2, 3], device));
    }
    Ok(())
}

/// f32 values are rounded on input and widened on output.
pub fn f32_round_trip<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 2);
    let host = lab.draws.normals(&[3, 7]).rounded(DType::F32);
    let values: Vec<f32> = host.data.iter().map(|&x| x as f32).collect();
    let x = TensorOf::<B>::from_f32(&values, &[3, 7], dtype, device)?;
    assert_eq!(x.dtype(), dtype);
    assert_exact(&x, &host.rounded(dtype), "from_f32");
    let back: Vec<f64> = x.to_f32()?.into_iter().map(f64::from).collect();
    assert_eq!(back, host.rounded(dtype).rounded(DType::F32).data);
    rejects("too few values", || TensorOf::<B>::from_f32(&values, &[3, 8], dtype, device));
    Ok(())
}

/// A filled tensor has its value everywhere.
pub fn full_fills<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    for value in [0.0, -2.5, 1.0 / 3.0] {
        let x = TensorOf::<B>::full(value, &[2, 3, 1], dtype, device)?;
        assert_eq!(x.dtype(), dtype);
        assert_exact(&x, &Array::full(&[2, 3, 1], value).rounded(dtype), "full");
    }
    Ok(())
}

/// Casts round to the nearest value, ties to even. A cast to the same dtype changes nothing.
pub fn cast_rounds_to_nearest<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 3);
    let mut values = lab.draws.normals(&[4, 9]);
    // halfway between two bf16 values, and between two f16 values
    (values.data[0], values.data[1]) = (1.0 + 1.0 / 256.0, 1.0 + 1.0 / 2048.0);
    let wide = lab.sample_as(values, DType::F32)?;
    let narrow = wide.on.cast(dtype)?;
    assert_eq!(narrow.dtype(), dtype);
    assert_exact(&narrow, &wide.host.rounded(dtype), "cast from f32");
    assert_exact(&narrow.cast(DType::F32)?, &wide.host.rounded(dtype), "cast to f32");
    assert_exact(&narrow.cast(dtype)?, &wide.host.rounded(dtype), "cast to itself");
    Ok(())
}

/// A reshape keeps the row-major order of the elements, also for a view.
pub fn reshape_keeps_the_order<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 4);
    let x = lab.counting(&[2, 3, 4])?;
    for shape in [&[24][..], &[6, 4], &[4, 1, 6], &[1, 2, 3, 4]] {
        assert_exact(&x.on.reshape(shape)?, &x.host.reshaped(shape), "reshape");
    }
    let view = x.on.permute(&[2, 0, 1])?;
    assert_exact(
        &view.reshape(&[8, 3])?,
        &oracle::permute(&x.host, &[2, 0, 1]).reshaped(&[8, 3]),
        "of a view",
    );
    Ok(())
}

/// `permute` orders axes as numpy does.
pub fn permute_follows_numpy<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 5);
    let x = lab.counting(&[2, 3, 4, 5])?;
    for axes in [[0, 2, 1, 3], [3, 2, 1, 0], [1, 3, 0, 2], [0, 1, 2, 3]] {
        assert_exact(&x.on.permute(&axes)?, &oracle::permute(&x.host, &axes), "permute");
    }
    Ok(())
}

/// `narrow` takes a run along one axis.
pub fn narrow_takes_a_run<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 6);
    let x = lab.counting(&[2, 3, 5])?;
    for (axis, start, len) in [(0, 1, 1), (1, 0, 3), (1, 2, 1), (2, 1, 3)] {
        assert_exact(&x.on.narrow(axis, start, len)?, &oracle::narrow(&x.host, axis, start, len), "narrow");
    }
    Ok(())
}

/// `concat` joins parts of different lengths, also views.
pub fn concat_joins<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 7);
    let (a, b) = (lab.counting(&[2, 3, 4])?, lab.counting(&[2, 1, 4])?);
    let joined = TensorOf::<B>::concat(&[&a.on, &b.on, &a.on], 1)?;
    assert_exact(&joined, &oracle::concat(&[&a.host, &b.host, &a.host], 1), "along axis 1");
    let joined = TensorOf::<B>::concat(&[&b.on, &a.on], 1)?;
    assert_exact(&joined, &oracle::concat(&[&b.host, &a.host], 1), "in the order given");
    let (view, host) = (a.on.permute(&[2, 1, 0])?, oracle::permute(&a.host, &[2, 1, 0]));
    for axis in 0..3 {
        let joined = TensorOf::<B>::concat(&[&view, &view], axis)?;
        assert_exact(&joined, &oracle::concat(&[&host, &host], axis), "views");
    }
    assert_exact(&TensorOf::<B>::concat(&[&b.on], 0)?, &b.host, "one part");
    Ok(())
}

/// The bytes of a view are row-major, whatever its layout in memory is.
pub fn views_read_back_row_major<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 8);
    let x = lab.counting(&[3, 4, 5])?;
    let view = x.on.permute(&[2, 0, 1])?.narrow(0, 1, 3)?.narrow(2, 2, 2)?;
    let host = oracle::narrow(&oracle::narrow(&oracle::permute(&x.host, &[2, 0, 1]), 0, 1, 3), 2, 2, 2);
    assert_eq!(view.to_bytes()?, host.bytes(dtype));
    assert_eq!(view.to_f32()?.len(), 3 * 3 * 2);
    Ok(())
}

/// Shapes and axes that do not fit are errors, never panics.
pub fn wrong_layouts_are_errors<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 9);
    let x = lab.counting(&[2, 3, 4])?.on;
    rejects("reshape to fewer elements", || x.reshape(&[2, 3, 3]));
    rejects("reshape to more elements", || x.reshape(&[5, 5]));
    rejects("permute with too few axes", || x.permute(&[0, 1]));
    rejects("permute with too many axes", || x.permute(&[0, 1, 2, 3]));
    rejects("permute with a repeated axis", || x.permute(&[0, 1, 1]));
    rejects("permute with an unknown axis", || x.permute(&[0, 1, 3]));
    rejects("narrow along an unknown axis", || x.narrow(3, 0, 1));
    rejects("narrow past the end", || x.narrow(1, 2, 2));
    rejects("narrow from beyond the end", || x.narrow(1, 4, 1));
    rejects("narrow with an overflowing end", || x.narrow(1, usize::MAX, 2));
    rejects("concat of nothing", || TensorOf::<B>::concat(&[], 0));
    rejects("concat along an unknown axis", || TensorOf::<B>::concat(&[&x, &x], 3));
    let other = lab.counting(&[2, 3, 5])?.on;
    rejects("concat of unequal lengths", || TensorOf::<B>::concat(&[&x, &other], 1));
    let flat = lab.counting(&[6, 4])?.on;
    rejects("concat of unequal axes", || TensorOf::<B>::concat(&[&x, &flat], 0));
    Ok(())
}
