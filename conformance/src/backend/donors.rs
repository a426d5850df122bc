//! Checks of parts of the attention map, and of the kept tokens that give their values to pruned tokens.

use atedm_core::at_edm::recovery::{BicubicInterpolation, SoftCopy, UpdateCopy};
use atedm_core::at_edm::{Bicubic, RecoveryInput, TokenRecovery};
use atedm_core::backend::{Donors, generic};
use atedm_core::plugin::Grid;
use atedm_core::{
    AttentionGraph, AttentionOps, Backend, DType, DeviceOf, Indices, Partition, Result, Tensor,
};

use super::graph::{Graph, graph, partition};
use super::support::{Lab, TensorOf, recorded, rejects, rejects_nan, rejects_shape};
use crate::host::Array;
use crate::oracle;
use crate::tolerance::{assert_arrays_close, assert_close_as};

/// Sizes: batch, heads, tokens, kept tokens, donors.
const SIZES: [(usize, usize, usize, usize, usize); 5] =
    [(1, 1, 2, 1, 1), (2, 3, 7, 3, 2), (1, 2, 9, 8, 8), (2, 4, 33, 13, 4), (1, 3, 130, 47, 5)];

/// The donors of every pruned token, as lists.
fn lists<T: AttentionOps>(donors: &Donors<T>, k: usize) -> Result<Vec<Vec<Vec<u32>>>> {
    let rows = donors.kept.to_host()?;
    Ok(rows.iter().map(|row| row.chunks(k).map(<[u32]>::to_vec).collect()).collect())
}

/// The head-mean map between two sets of tokens, in any order and with repeats.
pub fn block_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 21);
    for (b, h, m, n) in [(1, 1, 1, 1), (2, 3, 7, 5), (1, 2, 9, 40), (2, 2, 33, 33)] {
        let graph = graph(&mut lab, [b, h, m, n, 6])?;
        let mut draw = |count: usize, below: usize| -> Vec<Vec<u32>> {
            (0..b).map(|_| (0..count).map(|_| lab.draws.below(below) as u32).collect()).collect()
        };
        let (rows, columns) = (draw(m.div_ceil(2), m), draw(n.div_ceil(3), n));
        let expected = oracle::block(&graph.map, &rows, &columns);
        let (rows, columns) = (lab.indices(&rows)?, lab.indices(&columns)?);
        for (form, graph) in graph.forms() {
            let block = graph.block(&rows, &columns)?;
            assert_eq!(block.dtype(), dtype.accumulator(), "{form}");
            assert_close_as(&block, &expected, dtype, form);
        }
    }
    Ok(())
}

/// The kept tokens that attend most to a pruned token, ascending, and their attention.
pub fn top_k_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 22);
    for (b, h, n, kept, k) in SIZES {
        let graph = graph(&mut lab, [b, h, n, n, 6])?;
        let partition = partition(&mut lab, b, kept, n)?;
        let (stay, go) = (partition.kept.to_host()?, partition.pruned.to_host()?);
        let expected = oracle::top_k(&graph.map, &stay, &go, k);
        let block = oracle::block(&graph.map, &stay, &go);
        let value = |b: usize, column: usize, at: u32| block.at(&[b, column, at as usize]);
        for (form, graph) in graph.forms() {
            let donors = graph.top_k(&partition, k)?;
            assert_eq!(donors.kept.dims(), (b, (n - kept) * k), "{form}");
            assert_eq!(donors.attention.dtype(), dtype.accumulator(), "{form}");
            let got = lists(&donors, k)?;
            let attention = Array::from_fn(&[b, n - kept, k], |i| value(i[0], i[1], got[i[0]][i[1]][i[2]]));
            assert_close_as(&donors.attention, &attention, dtype, form);
            for (b, (got, expected)) in got.iter().zip(&expected).enumerate() {
                for (column, (got, expected)) in got.iter().zip(expected).enumerate() {
                    assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "{form}: {got:?} does not ascend");
                    // if the dtype cannot distinguish the means of two rows, either may be chosen
                    let sorted = |from: &[u32]| {
                        let mut values: Vec<f64> = from.iter().map(|&at| value(b, column, at)).collect();
                        values.sort_by(f64::total_cmp);
                        Array::new(&[from.len()], values)
                    };
                    assert_arrays_close(&sorted(got), &sorted(expected), dtype.accumulator(), form);
                }
            }
        }
    }
    Ok(())
}

/// If rows attend equally to a column, the lowest are taken, in both forms.
pub fn top_k_takes_the_lowest_of_equals<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 23);
    let (q, k) = (lab.sample(Array::full(&[2, 2, 41, 4], 0.5))?, lab.normals(&[2, 2, 41, 4])?);
    let streamed = AttentionGraph::from_qk(&q.on, &k.on, 0.5)?;
    let dense = AttentionGraph::Dense(streamed.to_dense()?);
    let partition = partition(&mut lab, 2, 17, 41)?;
    for (form, graph) in [("streamed", streamed), ("dense", dense)] {
        let donors = graph.top_k(&partition, 3)?;
        assert_eq!(lists(&donors, 3)?, vec![vec![vec![0, 1, 2]; 24]; 2], "{form}");
    }
    Ok(())
}

/// A single donor is the strongest.
pub fn one_donor_is_the_strongest<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 24);
    for (b, h, n, kept, _) in SIZES {
        let Graph { streamed, dense, .. } = graph(&mut lab, [b, h, n, n, 6])?;
        let partition = partition(&mut lab, b, kept, n)?;
        let bodies = generic::strongest(&streamed, &partition)?.to_host()?;
        assert_eq!(generic::top_k(&streamed, &partition, 1)?.kept.to_host()?, bodies, "streamed");
        assert_eq!(
            dense.top_k(&partition, 1)?.kept.to_host()?,
            dense.strongest(&partition)?.to_host()?,
            "dense"
        );
    }
    Ok(())
}

/// NaN has no order, so donors fail. But a part of the map may contain NaN.
pub fn donors_of_nan_are_errors<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 25);
    let mut values = lab.draws.normals(&[1, 2, 6, 3]);
    values.data[4] = f64::NAN; // the second query of the first head
    let (q, k) = (lab.sample(values)?, lab.normals(&[1, 2, 6, 3])?);
    let streamed = AttentionGraph::from_qk(&q.on, &k.on, 0.5)?;
    let dense = AttentionGraph::Dense(streamed.to_dense()?);
    let partition = Partition::from_kept(&[vec![0, 1, 4]], 6, device)?;
    for (form, graph) in [("streamed", streamed), ("dense", dense)] {
        rejects_nan(form, || graph.top_k(&partition, 2)?.kept.to_host());
        let block = Array::read(&graph.block(&partition.kept, &partition.pruned)?)?;
        let nan: Vec<bool> = block.data.iter().map(|value| value.is_nan()).collect();
        assert_eq!(nan, [false, true, false].repeat(3), "{form}");
    }
    Ok(())
}

/// More columns than any tile or block has. The parts must fit together.
pub fn donors_beyond_one_block<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 26);
    let (n, kept, k) = (1030, 19, 3);
    let Graph { streamed, map, .. } = graph(&mut lab, [1, 2, n, n, 4])?;
    let partition = partition(&mut lab, 1, kept, n)?;
    let (stay, go) = (partition.kept.to_host()?, partition.pruned.to_host()?);
    let graph = AttentionGraph::Streamed(streamed);
    // entries of about 1/n, scaled to about 1, so that the absolute tolerance cannot hide errors
    let wide = |x: &Array| x.map(|value| value * n as f64);
    let block = oracle::block(&map, &stay, &go);
    let got = Array::read(&graph.block(&partition.kept, &partition.pruned)?)?;
    assert_arrays_close(&wide(&got), &wide(&block), dtype, "block");
    let donors = graph.top_k(&partition, k)?;
    let chosen = lists(&donors, k)?;
    let expected =
        Array::from_fn(&[1, n - kept, k], |i| block.at(&[0, i[1], chosen[0][i[1]][i[2]] as usize]));
    assert_arrays_close(&wide(&Array::read(&donors.attention)?), &wide(&expected), dtype, "attention");
    Ok(())
}

/// The overridable steps agree with their generic bodies.
pub fn donor_overrides_equal_the_generic_bodies<B: Backend>(
    device: &DeviceOf<B>,
    dtype: DType,
) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 27);
    for (b, h, n, kept, k) in SIZES {
        let Graph { streamed, .. } = graph(&mut lab, [b, h, n, n, 17])?;
        let partition = partition(&mut lab, b, kept, n)?;
        let (rows, columns) = (&partition.kept, &partition.pruned);
        let body = Array::read(&generic::block(&streamed, rows, columns)?)?;
        assert_close_as(&TensorOf::<B>::block(&streamed, rows, columns)?, &body, dtype, "block");
        let body = generic::top_k(&streamed, &partition, k)?;
        let got = TensorOf::<B>::top_k(&streamed, &partition, k)?;
        assert_eq!(got.kept.to_host()?, body.kept.to_host()?, "donors");
        assert_close_as(&got.attention, &Array::read(&body.attention)?, dtype, "attention");
    }
    Ok(())
}

/// Misfits are errors: impossible counts, and sets that do not fit the map.
pub fn donors_reject_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 28);
    let graph = graph(&mut lab, [2, 3, 7, 7, 4])?;
    let few = partition(&mut lab, 2, 3, 7)?;
    let (all, beyond) = (partition(&mut lab, 2, 7, 7)?, partition(&mut lab, 2, 3, 20)?);
    for (form, graph) in graph.forms() {
        rejects_shape(&format!("{form} no donors"), || graph.top_k(&few, 0)?.kept.to_host());
        rejects_shape(&format!("{form} more donors than tokens"), || graph.top_k(&few, 4)?.kept.to_host());
        rejects(&format!("{form} nothing pruned"), || graph.top_k(&all, 1)?.kept.to_host());
        rejects(&format!("{form} donors of other tokens"), || graph.top_k(&beyond, 2)?.kept.to_host());
        rejects(&format!("{form} no columns"), || graph.block(&all.kept, &all.pruned)?.to_bytes());
        rejects(&format!("{form} a block of other tokens"), || {
            graph.block(&beyond.kept, &beyond.pruned)?.to_bytes()
        });
    }
    Ok(())
}

/// With soft copy, pruned tokens become weighted means of their donors. With update copy, they keep their values and take the mean
/// of the donors' changes.
pub fn soft_and_update_copy_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 29);
    for (temperature, k) in [(1.0, 4), (0.5, 3), (3.0, 100)] {
        let (b, n, kept) = (2, 15, 6);
        let Graph { streamed, map, .. } = graph(&mut lab, [b, 2, n, n, 6])?;
        let partition = partition(&mut lab, b, kept, n)?;
        let (stay, go) = (partition.kept.to_host()?, partition.pruned.to_host()?);
        let (hidden, reduced) = (lab.normals(&[b, n, 5])?, lab.normals(&[b, kept, 5])?);
        let graph = AttentionGraph::Streamed(streamed);
        let donors = lists(&graph.top_k(&partition, k.min(kept))?, k.min(kept))?;
        let block = oracle::block(&map, &stay, &go);
        let soft = SoftCopy { k, temperature };
        let recoveries: [(&dyn TokenRecovery<TensorOf<B>>, f64); 2] =
            [(&soft, 0.0), (&UpdateCopy { changes: soft }, 1.0)];
        // `own` is the share of its own value that a pruned token keeps
        for (recovery, own) in recoveries {
            let plan = recovery.plan(RecoveryInput {
                partition: partition.clone(),
                graph: Some(&graph),
                hidden: &hidden.on,
                grid: Grid::new(3, 5),
                entry_tokens: n,
                protected: (0, 0),
                positions: None,
            })?;
            let expected = Array::from_fn(&[b, n, 5], |i| {
                let token = i[1] as u32;
                if let Some(at) = stay[i[0]].iter().position(|&kept| kept == token) {
                    return reduced.host.at(&[i[0], at, i[2]]);
                }
                let before = |token: u32| own * hidden.host.at(&[i[0], token as usize, i[2]]);
                let column = go[i[0]].iter().position(|&pruned| pruned == token).unwrap_or(0);
                let weight = |at: u32| block.at(&[i[0], column, at as usize]).powf(1.0 / temperature);
                let total: f64 = donors[i[0]][column].iter().map(|&at| weight(at)).sum();
                let share = |&at: &u32| {
                    let change =
                        reduced.host.at(&[i[0], at as usize, i[2]]) - before(stay[i[0]][at as usize]);
                    weight(at) / total * change
                };
                before(token) + donors[i[0]][column].iter().map(share).sum::<f64>()
            });
            let what = format!("{recovery:?}");
            assert_close_as(&plan.restore(&reduced.on)?, &expected, dtype, &what);
        }
    }
    Ok(())
}

/// With update copy over bicubic interpolation, pruned tokens keep their values and take changes that are interpolated over the grid.
pub fn bicubic_update_copy_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 30);
    let (b, kept, grid) = (2, 11, [4, 5]);
    let n = grid[0] * grid[1];
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let partition = partition(&mut lab, b, kept, n)?;
        let stay = partition.kept.to_host()?;
        let (hidden, reduced) = (lab.normals(&[b, n, 3])?, lab.normals(&[b, kept, 3])?);
        let recovery = UpdateCopy { changes: BicubicInterpolation { mode } };
        let plan = recovery.plan(RecoveryInput {
            partition,
            graph: None,
            hidden: &hidden.on,
            grid: Grid::new(grid[0], grid[1]),
            entry_tokens: n,
            protected: (0, 0),
            positions: None,
        })?;
        let before = oracle::gather(&hidden.host, 1, &stay);
        let changes = Array::from_fn(&[b, kept, 3], |i| reduced.host.at(i) - before.at(i));
        let everywhere = vec![(0..n as u32).collect(); b];
        let no_map = Array::from_fn(&[b, 0, n, n], |_| 0.0);
        let decision = oracle::Pruned::new(stay, no_map, hidden.host.clone(), everywhere);
        let spread = oracle::restore(&changes, &decision, oracle::Recovery::Bicubic(mode), grid);
        let expected = Array::from_fn(&[b, n, 3], |i| hidden.host.at(i) + spread.at(i));
        // the weights of normalized interpolation are f32 in every dtype
        let precision = if mode == Bicubic::Normalised { recorded(dtype) } else { dtype };
        assert_close_as(&plan.restore(&reduced.on)?, &expected, precision, &format!("{recovery:?}"));
    }
    Ok(())
}
