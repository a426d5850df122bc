//! Checks of choosing and moving tokens: splits, argmax, gathers, scatters, index lists.

use atedm_core::backend::generic;
use atedm_core::{Backend, DType, DeviceOf, Error, Indices, Partition, Result, Tensor};

use super::support::{IndicesOf, Lab, TensorOf, rejects, rejects_nan, rejects_shape};
use crate::host::Array;
use crate::oracle;
use crate::tolerance::{assert_close, assert_exact};

fn assert_split<B: Backend>(scores: &Array, on: &TensorOf<B>, kept: usize, what: &str) -> Result<()> {
    let split = on.split_top_k(kept)?;
    let (stay, go) = (split.kept.to_host()?, split.pruned.to_host()?);
    let n = scores.shape[1];
    for (b, row) in scores.data.chunks_exact(n).enumerate() {
        let (kept_rows, pruned_rows) = oracle::split_top_k(row, kept);
        assert_eq!(stay[b], kept_rows, "{what}: kept {kept} of {n}, row {b}");
        assert_eq!(go[b], pruned_rows, "{what}: pruned, row {b}");
    }
    assert_eq!(split.kept.dims(), (scores.shape[0], kept));
    assert_eq!(split.pruned.dims(), (scores.shape[0], n - kept));
    assert_eq!(split.tokens(), n);
    Ok(())
}

/// The highest scores are kept, and both lists are ordered by position, for every count.
pub fn split_top_k_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 1);
    for (batch, n) in [(1, 1), (1, 2), (3, 7), (2, 33), (2, 130)] {
        let scores = lab.normals(&[batch, n])?;
        for kept in 1..=n {
            assert_split::<B>(&scores.host, &scores.on, kept, "normals")?;
        }
    }
    Ok(())
}

/// Among equal scores, the lower index is kept. The values are few, so that many are equal.
pub fn equal_scores_keep_the_lower_index<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 2);
    for (distinct, n) in [(1, 9), (2, 40), (3, 65), (2, 1024)] {
        let values = Array::from_fn(&[2, n], |_| lab.draws.below(distinct) as f64);
        let scores = lab.sample(values)?;
        for kept in [1, 2, n / 3, n / 2, n - 1, n] {
            assert_split::<B>(&scores.host, &scores.on, kept.max(1), "few values")?;
        }
    }
    Ok(())
}

/// `-0.0` and `0.0` are equal scores.
pub fn negative_zero_equals_zero<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 3);
    let scores = lab.sample(Array::new(&[2, 4], vec![-0.0, 0.0, -0.0, 0.0, 0.0, -0.0, 0.0, -0.0]))?;
    for kept in 1..=4 {
        assert_split::<B>(&scores.host, &scores.on, kept, "signed zeros")?;
    }
    let map = lab.sample(Array::new(&[1, 2, 2], vec![-0.0, 0.0, 0.0, -0.0]))?;
    assert_eq!(map.on.argmax_rows()?.to_host()?, [[0, 0]]);
    Ok(())
}

/// A NaN score has no order, so it is an error.
pub fn nan_scores_are_errors<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 4);
    for place in 0..6 {
        for nan in [f64::NAN, -f64::NAN] {
            let mut values = Array::from_fn(&[2, 3], |i| (i[0] + i[1]) as f64);
            values.data[place] = nan;
            let scores = lab.sample(values)?;
            for kept in 1..=3 {
                rejects_nan("split_top_k", || scores.on.split_top_k(kept));
            }
            rejects_nan("argmax_rows", || scores.on.reshape(&[1, 2, 3])?.argmax_rows());
        }
    }
    Ok(())
}

/// Infinite scores are above and below all others.
pub fn infinite_scores_have_an_order<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 5);
    let (high, low) = (f64::INFINITY, f64::NEG_INFINITY);
    let scores = lab.sample(Array::new(&[1, 6], vec![low, 1.0, high, low, -1.0, high]))?;
    for kept in 1..=6 {
        assert_split::<B>(&scores.host, &scores.on, kept, "infinities")?;
    }
    Ok(())
}

/// A kept count of 0, or above the number of tokens, is an error.
pub fn kept_counts_out_of_range_are_errors<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 6);
    let scores = lab.counting(&[2, 5])?.on;
    for kept in [0, 6, usize::MAX] {
        rejects_shape("split_top_k", || scores.split_top_k(kept));
    }
    rejects("split_top_k of three axes", || scores.reshape(&[2, 1, 5])?.split_top_k(1));
    rejects("split_top_k of one axis", || scores.reshape(&[10])?.split_top_k(1));
    Ok(())
}

/// For every column, the row with the largest value.
pub fn argmax_rows_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 7);
    for shape in [[1, 1, 1], [2, 7, 1], [1, 1, 5], [2, 9, 4], [3, 65, 33]] {
        let x = lab.normals(&shape)?;
        assert_eq!(x.on.argmax_rows()?.to_host()?, oracle::argmax_rows(&x.host), "{shape:?}");
    }
    let x = lab.normals(&[2, 5, 9])?;
    let (view, host) = (x.on.permute(&[0, 2, 1])?, oracle::permute(&x.host, &[0, 2, 1]));
    assert_eq!(view.argmax_rows()?.to_host()?, oracle::argmax_rows(&host), "a view");
    rejects("argmax_rows of two axes", || x.on.reshape(&[10, 9])?.argmax_rows());
    Ok(())
}

/// Among equal values, the lowest row is taken. This also holds for negative and infinite values.
pub fn argmax_rows_takes_the_lowest_of_equals<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 8);
    let values = Array::from_fn(&[2, 37, 19], |_| -1.0 - lab.draws.below(3) as f64);
    let x = lab.sample(values)?;
    assert_eq!(x.on.argmax_rows()?.to_host()?, oracle::argmax_rows(&x.host));
    let x = lab.sample(Array::full(&[1, 4, 3], f64::NEG_INFINITY))?;
    assert_eq!(x.on.argmax_rows()?.to_host()?, [[0, 0, 0]]);
    Ok(())
}

/// Gathers entries in any order, with repeats, per batch row, along every axis except the first.
pub fn gather_along_every_axis<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 9);
    for shape in [&[2, 5][..], &[2, 5, 3], &[2, 3, 5, 4], &[1, 2, 3, 4]] {
        let x = lab.normals(shape)?;
        let (view, host) = if shape.len() > 2 {
            let mut axes: Vec<usize> = (0..shape.len()).collect();
            axes[1..].reverse();
            (x.on.permute(&axes)?, oracle::permute(&x.host, &axes))
        } else {
            (x.on.clone(), x.host.clone())
        };
        for axis in 1..shape.len() {
            for count in [1, 2, 7] {
                let mut rows = |len| {
                    (0..shape[0]).map(|_| (0..count).map(|_| lab.draws.below(len) as u32).collect()).collect()
                };
                let (at, of_view): (Vec<Vec<u32>>, Vec<Vec<u32>>) =
                    (rows(shape[axis]), rows(host.shape[axis]));
                let got = x.on.gather(axis, &lab.indices(&at)?)?;
                assert_exact(&got, &oracle::gather(&x.host, axis, &at), "gather");
                let got = view.gather(axis, &lab.indices(&of_view)?)?;
                assert_exact(&got, &oracle::gather(&host, axis, &of_view), "gather of a view");
            }
        }
    }
    Ok(())
}

/// Misfits are errors: indices beyond the axis, another batch, an unknown axis, and axis 0.
pub fn gather_rejects_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 10);
    let x = lab.counting(&[2, 3, 4])?.on;
    let fits = lab.indices(&[vec![0, 1], vec![2, 0]])?;
    rejects("axis 0", || x.gather(0, &fits));
    rejects("an unknown axis", || x.gather(3, &fits));
    for rows in [vec![vec![0, 3], vec![0, 1]], vec![vec![0, 1]], vec![vec![0, 1]; 3]] {
        rejects(&format!("{rows:?}"), || {
            // some backends check when the list is made, others when entries are taken; reading back waits for both
            x.gather(1, &lab.indices(&rows)?)?.to_bytes()
        });
    }
    Ok(())
}

/// The rows are replaced, and all others stay equal bit by bit.
pub fn scatter_into_replaces_rows<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 11);
    for (batch, n, count, channels) in [(1, 1, 1, 1), (2, 7, 3, 4), (2, 5, 5, 3), (3, 33, 8, 5)] {
        let (base, rows) = (lab.normals(&[batch, n, channels])?, lab.normals(&[batch, count, channels])?);
        let at: Vec<Vec<u32>> = (0..batch).map(|_| lab.draws.permutation(n)[..count].to_vec()).collect();
        let got = rows.on.scatter_into(&base.on, &lab.indices(&at)?)?;
        assert_exact(&got, &oracle::scatter_into(&rows.host, &base.host, &at), "scatter_into");
    }
    Ok(())
}

/// Misfits are errors: wrong counts, channels and places.
pub fn scatter_into_rejects_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 12);
    let (base, rows) = (lab.counting(&[2, 5, 3])?.on, lab.counting(&[2, 2, 3])?.on);
    let fits = lab.indices(&[vec![0, 1], vec![2, 0]])?;
    rejects("other channels", || lab.counting(&[2, 2, 4])?.on.scatter_into(&base, &fits));
    rejects("another count", || lab.counting(&[2, 3, 3])?.on.scatter_into(&base, &fits));
    rejects("another batch", || lab.counting(&[1, 2, 3])?.on.scatter_into(&base, &fits));
    rejects("two axes", || rows.reshape(&[4, 3])?.scatter_into(&base, &fits));
    rejects("a place beyond the base", || {
        rows.scatter_into(&base, &lab.indices(&[vec![0, 5], vec![0, 1]])?)?.to_bytes()
    });
    Ok(())
}

/// Means of segments: random segments, one segment for all rows, one per row, and segments without rows.
pub fn segment_mean_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 15);
    for (batch, n, count, channels) in
        [(1, 1, 1, 1), (2, 7, 1, 3), (3, 40, 11, 5), (2, 33, 64, 2), (1, 130, 9, 16)]
    {
        let rows = lab.normals(&[batch, n, channels])?;
        let segments: Vec<Vec<u32>> =
            (0..batch).map(|_| (0..n).map(|_| lab.draws.below(count) as u32).collect()).collect();
        let expected = oracle::segment_mean(&rows.host, &segments, count);
        let at = lab.indices(&segments)?;
        let means = rows.on.segment_mean(&at, count)?;
        assert_eq!(means.dtype(), dtype);
        assert_close(&means, &expected, "random segments");
        let body: TensorOf<B> = generic::segment_mean(&rows.on, &at, count)?;
        assert_close(&body, &expected, "random segments, generic body");
        let again = rows.on.segment_mean(&at, count)?;
        assert_eq!(means.to_bytes()?, again.to_bytes()?, "the same every time");
        let own = lab.indices(&vec![(0..n as u32).rev().collect(); batch])?;
        let turned = oracle::gather(&rows.host, 1, &vec![(0..n as u32).rev().collect(); batch]);
        assert_exact(&rows.on.segment_mean(&own, n)?, &turned, "every row alone");
    }
    Ok(())
}

/// Misfits are errors: segments that do not fit the rows, or do not exist.
pub fn segment_mean_rejects_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 16);
    let rows = lab.counting(&[2, 3, 4])?.on;
    let three = lab.indices(&[vec![0, 1, 2], vec![2, 1, 0]])?;
    rejects_shape("a segment beyond the count", || rows.segment_mean(&three, 2));
    rejects_shape("no segments", || rows.segment_mean(&three, 0));
    let two = lab.indices(&[vec![0, 1], vec![1, 0]])?;
    rejects_shape("segments of other rows", || rows.segment_mean(&two, 2));
    rejects_shape("rows of another batch", || rows.narrow(0, 0, 1)?.segment_mean(&three, 3));
    rejects_shape("rows without channels", || rows.reshape(&[2, 12])?.segment_mean(&three, 3));
    Ok(())
}

/// Composition, concatenation, complement and inverse agree with plain lists.
pub fn indices_against_plain_lists<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 13);
    for (batch, n) in [(1, 1), (2, 5), (3, 40)] {
        let mut lists = |count: usize| -> Vec<Vec<u32>> {
            (0..batch).map(|_| lab.draws.permutation(n)[..count].to_vec()).collect()
        };
        let (order, some) = (lists(n), lists(n.div_ceil(2)));
        let (on_order, on_some) = (lab.indices(&order)?, lab.indices(&some)?);
        assert_eq!(on_order.to_host()?, order);
        assert_eq!(on_some.dims(), (batch, n.div_ceil(2)));
        let each = |f: &dyn Fn(usize) -> Vec<u32>| -> Vec<Vec<u32>> { (0..batch).map(f).collect() };
        let composed = each(&|b| some[b].iter().map(|&i| order[b][i as usize]).collect());
        assert_eq!(on_order.gather(&on_some)?.to_host()?, composed, "gather");
        let joined = each(&|b| [&order[b][..], &some[b][..], &order[b][..]].concat());
        assert_eq!(IndicesOf::<B>::concat(&[&on_order, &on_some, &on_order])?.to_host()?, joined, "concat");
        let rest = each(&|b| (0..n as u32).filter(|i| !some[b].contains(i)).collect());
        assert_eq!(on_some.complement(n)?.to_host()?, rest, "complement");
        let inverse =
            each(&|b| (0..n as u32).map(|i| order[b].iter().position(|&j| j == i).unwrap() as u32).collect());
        assert_eq!(on_order.inverse()?.to_host()?, inverse, "inverse");
        let flat = order.concat();
        for (rows, count) in [(batch * n, 1), (1, batch * n), (n, batch)] {
            let reshaped: Vec<Vec<u32>> = flat.chunks(count).map(<[u32]>::to_vec).collect();
            let on_reshaped = on_order.reshape(rows, count)?;
            assert_eq!(on_reshaped.dims(), (rows, count), "reshape");
            assert_eq!(on_reshaped.to_host()?, reshaped, "reshape");
        }
    }
    let all = lab.indices(&[vec![2, 0, 1], vec![0, 1, 2]])?;
    let none = all.complement(3)?;
    assert_eq!(none.dims(), (2, 0), "the complement of everything is empty");
    assert_eq!(none.reshape(3, 0)?.to_host()?, vec![Vec::<u32>::new(); 3], "empty lists");
    Ok(())
}

/// Misfits are errors: ragged lists, other batches, entries out of range, and lists that are no permutation.
pub fn indices_reject_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 14);
    rejects("ragged rows", || lab.indices(&[vec![0, 1], vec![0]]));
    let x = lab.indices(&[vec![0, 2], vec![1, 0]])?;
    rejects("gather beyond the list", || x.gather(&lab.indices(&[vec![2], vec![0]])?)?.to_host());
    rejects("gather of another batch", || x.gather(&lab.indices(&[vec![0]])?)?.to_host());
    rejects("concat of another batch", || IndicesOf::<B>::concat(&[&x, &lab.indices(&[vec![0]])?]));
    rejects("concat of nothing", || IndicesOf::<B>::concat(&[]));
    rejects("complement below an entry", || x.complement(2)?.to_host());
    rejects("reshape to fewer entries", || x.reshape(1, 3));
    rejects("reshape to more entries", || x.reshape(2, 3));
    rejects("inverse of a repeat", || lab.indices(&[vec![0, 0]])?.inverse()?.to_host());
    rejects("inverse with a gap", || lab.indices(&[vec![0, 2]])?.inverse()?.to_host());
    Ok(())
}

/// The other half of a partition from kept lists is the rest. Lists that are not ascending are errors.
pub fn partitions_are_checked<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let _ = dtype;
    let from = |rows: &[Vec<u32>]| Partition::<TensorOf<B>>::from_kept(rows, 5, device);
    let partition = from(&[vec![0, 3], vec![1, 4]])?;
    assert_eq!(partition.pruned.to_host()?, [[1, 2, 4], [0, 2, 3]]);
    assert_eq!(partition.tokens(), 5);
    for rows in [vec![vec![3, 0]], vec![vec![1, 1]], vec![vec![0, 5]]] {
        let error = rejects(&format!("{rows:?}"), || from(&rows));
        assert!(matches!(&error, Error::Config { field, .. } if field == "kept"), "{error}");
    }
    Ok(())
}
