//! Bicubic recovery: its definition, holes, video, earlier prunings, and tokens beside the grid.

use atedm_core::Indices;
use atedm_core::at_edm::recovery::BicubicInterpolation;
use atedm_core::at_edm::{Bicubic, RecoveryInput, TokenRecovery};
use atedm_core::backend::AttentionGraph;
use atedm_core::plugin::Grid;
use atedm_core::reference::{NdDevice, NdIndices, NdTensor};

use crate::recovery::{graph, kept_rows, partition, plan};
use crate::support::{Matrix, Random, assert_close, batch, matrices, tensor, values};

/// Keys' kernel, by its definition.
fn keys(x: f64) -> f64 {
    let (a, x) = (-0.75, x.abs());
    if x <= 1.0 {
        (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
    } else if x < 2.0 {
        a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a
    } else {
        0.0
    }
}

/// The interpolation at one cell by its definition, and the weight on kept cells.
fn interpolated(field: &[Option<f64>], grid: Grid, cell: usize) -> (f64, f64) {
    let (row, column) = ((cell / grid.width) as i64, (cell % grid.width) as i64);
    let (mut total, mut weight) = (0.0, 0.0);
    for (other, value) in field.iter().enumerate() {
        let (u, v) = ((other / grid.width) as i64 - row, (other % grid.width) as i64 - column);
        if let (Some(value), false) = (value, u == 0 && v == 0) {
            let w = keys(u as f64 / 2.0) * keys(v as f64 / 2.0) / 3.0;
            total += w * value;
            weight += w;
        }
    }
    (total, weight)
}

#[test]
fn bicubic_follows_its_definition() {
    let mut random = Random(23);
    let grid = Grid::new(6, 9);
    let kept = kept_rows(&mut random, 1, 54, 30);
    let hidden = random.matrix(54, 1, 1.0);
    let graph = graph(&mut random, 1, 54);
    let field: Vec<Option<f64>> =
        (0..54).map(|i| kept[0].contains(&(i as u32)).then(|| hidden[i][0])).collect();
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let hidden = batch(std::slice::from_ref(&hidden));
        let plan = plan(&BicubicInterpolation { mode }, &kept, &hidden, &graph, grid);
        let restored = values(&plan.restore(&plan.shrink(&hidden).unwrap()).unwrap());
        for (cell, got) in restored.iter().enumerate() {
            let (total, weight) = interpolated(&field, grid, cell);
            let expected = match (field[cell], mode) {
                (Some(own), _) => own,
                (None, Bicubic::Normalised) if weight >= 0.125 => total / weight,
                (None, _) => total,
            };
            assert!((got - expected).abs() < 1e-6, "cell {cell}: {got} against {expected}");
        }
    }
}

#[test]
fn bicubic_keeps_constants_and_fails_in_holes() {
    let grid = Grid::new(16, 16);
    let constant = batch(&[vec![vec![2.0]; 256]]);
    let graph = AttentionGraph::Dense(tensor(&[0.0], &[1, 1, 1, 1]));
    let restored = |mode: Bicubic, kept: Vec<u32>| {
        let plan = plan(&BicubicInterpolation { mode }, &[kept], &constant, &graph, grid);
        values(&plan.restore(&plan.shrink(&constant).unwrap()).unwrap())
    };
    // A lone pruned cell inside a constant field.
    let all_but = |hole: &dyn Fn(u32) -> bool| (0..256).filter(|&i| !hole(i)).collect::<Vec<u32>>();
    let lone = restored(Bicubic::Plain, all_but(&|i| i == 8 * 16 + 8));
    assert_close(&lone, &[2.0; 256], 1e-12);
    // A checkerboard, normalised.
    let board = restored(Bicubic::Normalised, all_but(&|i| (i / 16 + i % 16) % 2 == 0));
    assert_close(&board, &[2.0; 256], 1e-6);
    // A hole of 9 x 9: no kept cell reaches its middle.
    let hole = |i: u32| (4..13).contains(&(i / 16)) && (4..13).contains(&(i % 16));
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let restored = restored(mode, all_but(&hole));
        for (row, column) in [(8, 8), (7, 8), (8, 9), (9, 9)] {
            assert_eq!(restored[row * 16 + column], 0.0, "{mode:?}");
        }
        assert!(restored[4 * 16 + 4] != 0.0);
    }
}

#[test]
fn bicubic_fills_each_frame_of_a_video_for_itself() {
    let mut random = Random(25);
    let frames = [random.matrix(20, 3, 1.0), random.matrix(20, 3, 1.0)];
    let kept: [Vec<u32>; 2] =
        [(0..20).filter(|i| i % 3 > 0).collect(), (0..20).filter(|i| i % 4 > 0).collect()];
    let graph = AttentionGraph::Dense(tensor(&[0.0], &[1, 1, 1, 1]));
    let later: Vec<u32> = kept[1].iter().map(|i| i + 20).collect();
    let of_both = [kept[0].clone(), later].concat();
    let video = batch(&[frames.concat()]);
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let restored = |hidden: &NdTensor, kept: &Vec<u32>, grid: Grid| {
            let kept = std::slice::from_ref(kept);
            let plan = plan(&BicubicInterpolation { mode }, kept, hidden, &graph, grid);
            values(&plan.restore(&plan.shrink(hidden).unwrap()).unwrap())
        };
        let alone: Vec<f64> = frames
            .iter()
            .zip(&kept)
            .flat_map(|(frame, kept)| restored(&batch(std::slice::from_ref(frame)), kept, Grid::new(4, 5)))
            .collect();
        assert_close(&restored(&video, &of_both, Grid::of_frames(2, 4, 5)), &alone, 1e-12);
    }
}

#[test]
fn bicubic_finds_its_cells_after_an_earlier_pruning() {
    let grid = Grid::new(4, 5);
    let stream: Vec<u32> = vec![0, 1, 2, 4, 6, 7, 8, 9, 11, 12, 13, 15, 16, 18, 19];
    let kept: Vec<u32> = vec![0, 2, 3, 5, 7, 8, 10, 11, 14];
    let mut random = Random(24);
    let hidden = random.matrix(stream.len(), 1, 1.0);
    let positions = NdIndices::from_host(std::slice::from_ref(&stream), &NdDevice).unwrap();
    let values_of = batch(std::slice::from_ref(&hidden));
    let input = RecoveryInput {
        partition: partition(std::slice::from_ref(&kept), stream.len()),
        graph: None,
        hidden: &values_of,
        grid,
        entry_tokens: 20,
        protected: (0, 0),
        positions: Some(&positions),
    };
    let plan = BicubicInterpolation::default().plan(input).unwrap();
    let restored = values(&plan.restore(&plan.shrink(&values_of).unwrap()).unwrap());
    let mut field = vec![None; 20];
    for &i in &kept {
        field[stream[i as usize] as usize] = Some(hidden[i as usize][0]);
    }
    for (i, &cell) in stream.iter().enumerate() {
        let expected = field[cell as usize].unwrap_or_else(|| interpolated(&field, grid, cell as usize).0);
        assert!((restored[i] - expected).abs() < 1e-12, "token {i}");
    }
}

/// Text before, within or after the image tokens changes nothing for them.
#[test]
fn bicubic_leaves_out_tokens_beside_the_grid() {
    let mut random = Random(26);
    let grid = Grid::new(4, 5);
    let graph = AttentionGraph::Dense(tensor(&[0.0], &[1, 1, 1, 1]));
    let image = random.matrix(20, 3, 1.0);
    let text = random.matrix(2, 3, 1.0);
    let kept = kept_rows(&mut random, 1, 20, 9);
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let bicubic = BicubicInterpolation { mode };
        let whole = batch(std::slice::from_ref(&image));
        let alone = plan(&bicubic, &kept, &whole, &graph, grid);
        let alone = matrices(&alone.restore(&alone.shrink(&whole).unwrap()).unwrap()).remove(0);
        for start in [0, 7, 20] {
            let with_text = |image: &Matrix| [&image[..start], &text, &image[start..]].concat();
            let moved = |token: &u32| if (*token as usize) < start { *token } else { token + 2 };
            let mut stay: Vec<u32> =
                kept[0].iter().map(moved).chain([start as u32, start as u32 + 1]).collect();
            stay.sort_unstable();
            let hidden = batch(&[with_text(&image)]);
            let plan = bicubic
                .plan(RecoveryInput {
                    partition: partition(&[stay], 22),
                    graph: None,
                    hidden: &hidden,
                    grid,
                    entry_tokens: 22,
                    protected: (start, start + 2),
                    positions: None,
                })
                .unwrap();
            let restored = matrices(&plan.restore(&plan.shrink(&hidden).unwrap()).unwrap()).remove(0);
            assert_eq!(restored, with_text(&alone), "{mode:?}, text at {start}");
        }
    }
}

#[test]
fn bicubic_needs_a_whole_grid() {
    let hidden = batch(&[vec![vec![0.0]; 6]]);
    let input = RecoveryInput {
        partition: partition(&[vec![0, 1, 2]], 6),
        graph: None,
        hidden: &hidden,
        grid: Grid::new(2, 2),
        entry_tokens: 6,
        protected: (0, 0),
        positions: None,
    };
    let error = BicubicInterpolation::default().plan(input).unwrap_err().to_string();
    assert!(error.starts_with("recovery: ") && error.contains("2 x 2"), "{error}");
}
