//! The values that replace pruned tokens at the block's exit (paper, section 3.2).

use atedm_core::at_edm::Bicubic;

use crate::host::Array;

/// A recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// The value of the kept token that attends most to the pruned one.
    Similarity,
    /// The token's value when it was pruned.
    Direct,
    /// Zeros.
    Zero,
    /// Interpolation over the grid.
    Bicubic(Bicubic),
}

/// One pruning decision, with the data that its recovery needs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pruned {
    /// Kept positions in the stream before the decision.
    pub kept: Vec<Vec<u32>>,
    /// Pruned positions in that stream.
    pub pruned: Vec<Vec<u32>>,
    /// The self-attention map of that layer, `[b, h, tokens, tokens]`.
    pub map: Array,
    /// The stream before the decision, `[b, tokens, channels]`.
    pub hidden: Array,
    /// The grid position of every token of that stream.
    pub positions: Vec<Vec<u32>>,
}

impl Pruned {
    /// The decision to keep the tokens `kept` of `hidden`; all other tokens are pruned.
    pub fn new(kept: Vec<Vec<u32>>, map: Array, hidden: Array, positions: Vec<Vec<u32>>) -> Self {
        let all = 0..hidden.shape[1] as u32;
        let pruned = kept.iter().map(|row| all.clone().filter(|token| !row.contains(token)).collect());
        Self { pruned: pruned.collect(), kept, map, hidden, positions }
    }

    /// The kept tokens, `[b, kept, channels]`.
    pub fn reduced(&self) -> Array {
        super::gather(&self.hidden, 1, &self.kept)
    }
}

/// Restores the kept tokens `[b, kept, c]` to `[b, tokens, c]`.
pub fn restore(reduced: &Array, decision: &Pruned, recovery: Recovery, grid: [usize; 2]) -> Array {
    let Pruned { kept, pruned, map, hidden, positions } = decision;
    let shape = [hidden.shape[0], hidden.shape[1], reduced.shape[2]];
    let donors = (recovery == Recovery::Similarity).then(|| super::strongest(map, kept, pruned));
    let fields = match recovery {
        Recovery::Bicubic(mode) => {
            (0..shape[0]).map(|b| Field::new(reduced, b, decision, grid, mode)).collect()
        }
        _ => Vec::new(),
    };
    Array::from_fn(&shape, |i| {
        let (b, token, channel) = (i[0], i[1] as u32, i[2]);
        if let Some(at) = kept[b].iter().position(|&k| k == token) {
            return reduced.at(&[b, at, channel]);
        }
        let at = pruned[b].iter().position(|&p| p == token).expect("kept or pruned");
        match (&donors, recovery) {
            (Some(donors), _) => reduced.at(&[b, donors[b][at] as usize, channel]),
            (None, Recovery::Direct) => hidden.at(i),
            (None, Recovery::Bicubic(_)) => fields[b].at(positions[b][i[1]] as usize, channel),
            (None, _) => 0.0,
        }
    })
}

/// Keys' cubic kernel, a = −0.75, stretched over two cells.
fn kernel(distance: isize) -> f64 {
    let (a, x) = (-0.75, distance.unsigned_abs() as f64 / 2.0);
    if x <= 1.0 {
        (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
    } else if x < 2.0 {
        a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a
    } else {
        0.0
    }
}

/// The kept tokens of one batch row on the grid; absent cells are `None`.
struct Field<'a> {
    reduced: &'a Array,
    batch: usize,
    cells: Vec<Option<usize>>,
    grid: [usize; 2],
    mode: Bicubic,
}

impl<'a> Field<'a> {
    fn new(reduced: &'a Array, batch: usize, decision: &Pruned, grid: [usize; 2], mode: Bicubic) -> Self {
        let mut cells = vec![None; grid[0] * grid[1]];
        for (at, &token) in decision.kept[batch].iter().enumerate() {
            cells[decision.positions[batch][token as usize] as usize] = Some(at);
        }
        Self { reduced, batch, cells, grid, mode }
    }

    /// A third of the kernel-weighted sum over all other kept cells. In the normalized mode, it is divided by the
    /// weights' sum unless that nearly cancels.
    fn at(&self, cell: usize, channel: usize) -> f64 {
        let [_, width] = self.grid;
        let (row, column) = ((cell / width) as isize, (cell % width) as isize);
        let (mut sum, mut weights) = (0.0, 0.0);
        for (other, at) in self.cells.iter().enumerate() {
            let Some(at) = *at else { continue };
            let weight =
                kernel((other / width) as isize - row) * kernel((other % width) as isize - column) / 3.0;
            weights += weight;
            sum += weight * self.reduced.at(&[self.batch, at, channel]);
        }
        if self.mode == Bicubic::Normalised && weights >= 0.125 { sum / weights } else { sum }
    }
}
