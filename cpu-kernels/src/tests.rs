//! Compares the kernels of attention with plain loops in f64, in bf16 and f32.
#![cfg(target_arch = "x86_64")]

use half::bf16;

use crate::{
    Attended, Cpu, Heads, Level, Numbers, NumbersMut, OwnThreads, Pass, attention, fits, strongest, votes,
};

/// Runs `check` for every level and element type that the kernels support, and says which this machine lacks.
fn every_kind(check: impl Fn(Level, Kind)) {
    let both = &[Kind::Half, Kind::Single][..];
    for (level, kinds) in [(Level::Avx2, &both[1..]), (Level::Avx512Bf16, both), (Level::Amx, both)] {
        match Cpu::with(level, &OwnThreads(1)) {
            Some(_) => kinds.iter().for_each(|&kind| check(level, kind)),
            None => println!("skipped: this processor has no {}", level.name()),
        }
    }
}

/// The kernels of a level that [`every_kind`] found.
fn cpu(level: Level, threads: &OwnThreads) -> Cpu<'_> {
    Cpu::with(level, threads).expect("found by every_kind")
}

/// The element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Half,
    Single,
}

impl Kind {
    /// A number as the element type holds it.
    fn round(self, x: f32) -> f32 {
        match self {
            Self::Half => bf16::from_f32(x).to_f32(),
            Self::Single => x,
        }
    }

    /// The error of one rounding, as a share of the number.
    fn unit(self) -> f64 {
        match self {
            Self::Half => 1.0 / 256.0,
            Self::Single => 1e-6,
        }
    }
}

/// Pseudo-random numbers of about this size.
fn noise(len: usize, seed: u64, size: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| (uniform() + uniform() + uniform()) * 2.0 * size).collect()
}

/// Batch, heads, rows and dim. Heads lie inside, `[b, rows, h, dim]`, and `gap` unused elements follow each row.
struct Operand {
    kind: Kind,
    data: Vec<f32>,
    bits: Vec<u16>,
    dims: [usize; 4],
    gap: usize,
}

impl Operand {
    fn new(kind: Kind, dims: [usize; 4], gap: usize, seed: u64, size: f32) -> Self {
        let [b, h, rows, dim] = dims;
        let data = noise(b * rows * (h * dim + gap), seed, size);
        let mut new =
            Self { kind, data: data.into_iter().map(|x| kind.round(x)).collect(), bits: vec![], dims, gap };
        new.changed();
        new
    }

    /// Makes the bits anew, after a change of the data.
    fn changed(&mut self) {
        self.bits = self.data.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
    }

    fn strides(&self) -> [usize; 4] {
        let [_, h, rows, dim] = self.dims;
        let row = h * dim + self.gap;
        [rows * row, dim, row, 1]
    }

    fn heads(&self) -> Heads<'_> {
        let numbers = match self.kind {
            Kind::Half => Numbers::Bf16(&self.bits),
            Kind::Single => Numbers::F32(&self.data),
        };
        Heads::new(numbers, self.dims, self.strides()).expect("a layout the kernels take")
    }

    fn at(&self, b: usize, h: usize, row: usize, element: usize) -> usize {
        let [by_batch, by_head, by_row, _] = self.strides();
        b * by_batch + h * by_head + row * by_row + element
    }

    fn get(&self, b: usize, h: usize, row: usize, element: usize) -> f64 {
        f64::from(self.data[self.at(b, h, row, element)])
    }
}

/// The operands of one attention, and its map and log-sum-exp in f64.
struct Case {
    q: Operand,
    k: Operand,
    v: Operand,
    scale: f32,
    scores: Vec<f32>,
}

impl Case {
    fn new(kind: Kind, [b, h, m, n, dim]: [usize; 5], gap: usize, size: f32) -> Self {
        Self {
            q: Operand::new(kind, [b, h, m, dim], gap, 1, size),
            k: Operand::new(kind, [b, h, n, dim], gap + gap % 2, 2, size),
            v: Operand::new(kind, [b, h, n, dim], 0, 3, 1.0),
            scale: 1.0 / (dim as f32).sqrt(),
            scores: (0..b * h * m).map(|i| (i * 37 % 101) as f32 / 50.0 / m as f32).collect(),
        }
    }

    fn pass(&self) -> Pass<'_> {
        Pass { q: self.q.heads(), k: self.k.heads(), scale: self.scale, scores: Some(&self.scores) }
    }

    /// Logits of one row.
    fn logits(&self, b: usize, h: usize, i: usize) -> Vec<f64> {
        let [_, _, n, dim] = self.k.dims;
        let dot = |j| (0..dim).map(|t| self.q.get(b, h, i, t) * self.k.get(b, h, j, t)).sum::<f64>();
        (0..n).map(|j| dot(j) * f64::from(self.scale)).collect()
    }

    /// The kernel's output, log-sum-exp and first vote.
    fn run(&self, level: Level, threads: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        self.run_pass(self.pass(), level, threads)
    }

    /// As [`Self::run`]. Without scores, the vote stays zero.
    fn run_pass(&self, pass: Pass<'_>, level: Level, threads: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let [b, h, m, _] = self.q.dims;
        let [_, _, n, dim] = self.v.dims;
        let (mut output, mut lse, mut first_vote) =
            (vec![0.0; b * m * h * dim], vec![0.0; b * h * m], vec![0.0; b * h * n]);
        let mut bits = vec![0; output.len()];
        let into = match self.q.kind {
            Kind::Half => NumbersMut::Bf16(&mut bits),
            Kind::Single => NumbersMut::F32(&mut output),
        };
        let into = Attended { output: into, lse: &mut lse, first_vote: Some(&mut first_vote) };
        attention(cpu(level, &OwnThreads(threads)), pass, self.v.heads(), into);
        if self.q.kind == Kind::Half {
            output = bits.into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect();
        }
        (output, lse, first_vote)
    }

    /// Checks all results of the kernels, within the error of one rounding.
    fn check(&self, level: Level) {
        let (output, lse, first_vote) = self.run(level, 2);
        let [b, h, m, _] = self.q.dims;
        let [_, _, n, dim] = self.v.dims;
        let mut again = vec![0.0; b * h * n];
        votes(cpu(level, &OwnThreads(3)), self.pass(), &lse, &mut again);
        let unit = self.q.kind.unit();
        for at in 0..b * h {
            let (b, h) = (at / h, at % h);
            let (mut right_votes, mut largest) = (vec![0f64; n], 0f64);
            for i in 0..m {
                let logits = self.logits(b, h, i);
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let right = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
                largest = logits.iter().map(|x| x.abs()).fold(largest, f64::max);
                let found = f64::from(lse[at * m + i]);
                assert!((found - right).abs() <= 5e-7 * (largest + 2.0), "lse {found} for {right}");
                let row: Vec<f64> = logits.iter().map(|x| (x - right).exp()).collect();
                let score = f64::from(self.scores[at * m + i]);
                right_votes.iter_mut().zip(&row).for_each(|(vote, p)| *vote += score * p);
                for t in 0..dim {
                    let right: f64 = row.iter().enumerate().map(|(j, p)| p * self.v.get(b, h, j, t)).sum();
                    let size: f64 =
                        row.iter().enumerate().map(|(j, p)| p * self.v.get(b, h, j, t).abs()).sum();
                    let found = f64::from(output[((b * m + i) * self.q.dims[1] + h) * dim + t]);
                    let more = match self.q.kind {
                        Kind::Half => 1e-4 * size,
                        // the logits are rounded to f32
                        Kind::Single => 1e-6 * largest * size,
                    };
                    let allowed = unit * (right.abs() + size) + more;
                    assert!(
                        (found - right).abs() <= allowed,
                        "output {found} for {right} at {b} {h} {i} {t}"
                    );
                }
            }
            for (j, right) in right_votes.into_iter().enumerate() {
                let (first, later) = (f64::from(first_vote[at * n + j]), f64::from(again[at * n + j]));
                // the logits are rounded to f32
                let allowed = 1e-5 + 5e-7 * largest;
                let close = |vote: f64, allowed: f64| (vote - right).abs() <= allowed * right + 1e-12;
                assert!(close(first, unit + allowed), "first vote {first} for {right}");
                assert!(close(later, allowed), "vote {later} for {right}");
            }
        }
    }
}

#[test]
fn heads_of_any_size_and_layout() {
    for (dims, gap) in [
        ([1, 1, 1, 1, 1], 0),
        ([1, 2, 7, 5, 8], 3),
        ([2, 3, 49, 65, 16], 0),
        ([1, 2, 50, 77, 20], 1),
        ([2, 1, 13, 130, 33], 5),
        ([1, 1, 97, 31, 40], 2),
        ([1, 2, 100, 47, 63], 0),
        ([1, 1, 65, 97, 48], 0),
        ([2, 2, 61, 379, 64], 64),
        ([1, 1, 900, 64, 64], 0),
    ] {
        every_kind(|level, kind| Case::new(kind, dims, gap, 1.0).check(level));
    }
}

#[test]
fn a_negative_scale() {
    every_kind(|level, kind| {
        let mut case = Case::new(kind, [1, 2, 20, 70, 64], 0, 1.0);
        case.scale = -0.2;
        case.check(level);
    });
}

#[test]
fn logits_far_beyond_the_room() {
    // bounds of about 1.5, 30, 200, 800 and 50000 for the logits
    for size in [0.5, 2.0, 5.0, 10.0, 80.0] {
        every_kind(|level, kind| Case::new(kind, [1, 2, 70, 200, 64], 0, size).check(level));
    }
}

#[test]
fn a_bound_far_above_every_logit() {
    // queries and keys are long and orthogonal except for one small element: the bound is 1250, the logits are about 1
    every_kind(|level, kind| {
        let mut case = Case::new(kind, [1, 1, 20, 90, 64], 0, 1.0);
        for i in 0..20 {
            let at = case.q.at(0, 0, i, 0);
            case.q.data[at..at + 2].copy_from_slice(&[100.0, 0.0]);
        }
        for j in 0..90 {
            let at = case.k.at(0, 0, j, 0);
            case.k.data[at..at + 2].copy_from_slice(&[0.0, 100.0]);
        }
        case.q.changed();
        case.k.changed();
        case.check(level);
    });
}

#[test]
fn votes_sum_to_the_scores() {
    every_kind(|level, kind| {
        let case = Case::new(kind, [2, 3, 333, 207, 64], 0, 1.0);
        let (_, _, first_vote) = case.run(level, 2);
        for (first_vote, scores) in first_vote.chunks(207).zip(case.scores.chunks(333)) {
            let (sum, right) = (first_vote.iter().sum::<f32>(), scores.iter().sum::<f32>());
            assert!((sum - right).abs() < 1e-3 * right, "{sum} for {right}");
        }
    });
}

#[test]
fn the_number_of_threads_changes_nothing() {
    every_kind(|level, kind| {
        let case = Case::new(kind, [2, 3, 1000, 150, 64], 0, 1.0);
        let one = case.run(level, 1);
        for threads in [2, 3, 7] {
            assert_eq!(one, case.run(level, threads));
        }
    });
}

#[test]
fn a_vote_changes_no_bit_of_the_output() {
    // more keys than a group of panels has, and bounds far beyond the room
    for size in [1.0, 10.0] {
        every_kind(|level, kind| {
            let case = Case::new(kind, [1, 2, 130, 601, 40], 0, size);
            let (output, lse, _) = case.run(level, 2);
            let plain = case.run_pass(Pass { scores: None, ..case.pass() }, level, 2);
            assert_eq!((output, lse, vec![0.0; 2 * 601]), plain);
        });
    }
}

#[test]
fn a_batch_mate_changes_nothing() {
    every_kind(|level, kind| {
        let mut case = Case::new(kind, [2, 2, 90, 150, 64], 0, 1.0);
        let (output, lse, first_vote) = case.run(level, 2);
        let second = |operand: &Operand| operand.at(1, 0, 0, 0)..operand.data.len();
        for operand in [&mut case.q, &mut case.k, &mut case.v] {
            let mate = second(operand);
            operand.data[mate].iter_mut().for_each(|x| *x *= 16.0);
            operand.changed();
        }
        let (other, other_lse, other_vote) = case.run(level, 2);
        assert_eq!(output[..90 * 128], other[..90 * 128]);
        assert_ne!(output[90 * 128..], other[90 * 128..]);
        assert_eq!(lse[..180], other_lse[..180]);
        assert_eq!(first_vote[..300], other_vote[..300]);
    });
}

#[test]
fn nan_reaches_its_row_and_every_vote() {
    every_kind(|level, kind| {
        let mut case = Case::new(kind, [1, 1, 60, 70, 64], 0, 1.0);
        let at = case.q.at(0, 0, 50, 3);
        case.q.data[at] = f32::NAN;
        case.q.changed();
        let (output, lse, first_vote) = case.run(level, 2);
        for (i, (row, lse)) in output.chunks(64).zip(&lse).enumerate() {
            assert_eq!((row.iter().all(|x| x.is_nan()), lse.is_nan()), (i == 50, i == 50), "{i}");
        }
        assert!(first_vote.iter().all(|vote| vote.is_nan()));
        let mut best = vec![0; 70];
        assert!(!strongest(cpu(level, &OwnThreads(2)), case.pass(), &lse, &mut best));
    });
}

#[test]
fn an_infinite_value_stays_in_its_column() {
    every_kind(|level, kind| {
        let mut case = Case::new(kind, [1, 1, 40, 70, 33], 0, 1.0);
        let at = case.v.at(0, 0, 69, 5);
        case.v.data[at] = f32::INFINITY;
        case.v.changed();
        let (output, lse, _) = case.run(level, 2);
        for (at, &x) in output.iter().enumerate() {
            assert!(if at % 33 == 5 { x == f32::INFINITY } else { x.is_finite() }, "{x} at {at}");
        }
        assert!(lse.iter().all(|lse| lse.is_finite()));
    });
}

#[test]
fn the_strongest_row() {
    for (dims, size) in [
        ([1, 1, 1, 1, 8], 1.0),
        ([2, 3, 140, 77, 40], 2.0),
        ([1, 2, 33, 40, 33], 2.0),
        ([1, 10, 55, 130, 64], 4.0),
    ] {
        every_kind(|level, kind| {
            let case = Case::new(kind, dims, 0, size);
            let [b, h, m, n, _] = dims;
            let (_, lse, _) = case.run(level, 2);
            let mut best = vec![-1; b * n];
            assert!(strongest(cpu(level, &OwnThreads(2)), case.pass(), &lse, &mut best));
            for (b, best) in best.chunks(n).enumerate() {
                let mut mean = vec![vec![0f64; n]; m];
                for (head, i) in (0..h).flat_map(|head| (0..m).map(move |i| (head, i))) {
                    let lse = f64::from(lse[(b * h + head) * m + i]);
                    let row = case.logits(b, head, i);
                    mean[i].iter_mut().zip(row).for_each(|(mean, x)| *mean += (x - lse).exp() / h as f64);
                }
                for (j, &found) in best.iter().enumerate() {
                    let right = mean.iter().map(|row| row[j]).fold(0.0, f64::max);
                    let value = mean[found as usize][j];
                    assert!(
                        value >= right * (1.0 - 1e-5),
                        "row {found} with {value}, not {right}, for column {j}"
                    );
                }
            }
        });
    }
}

#[test]
fn equal_rows_tie_to_the_lowest() {
    every_kind(|level, kind| {
        let mut case = Case::new(kind, [1, 2, 200, 70, 64], 0, 1.0);
        let row = 2 * 64;
        let pattern: Vec<f32> = case.q.data[..10 * row].to_vec();
        case.q.data.chunks_mut(10 * row).for_each(|rows| rows.copy_from_slice(&pattern));
        case.q.changed();
        let (_, lse, _) = case.run(level, 2);
        let mut best = vec![-1; 70];
        assert!(strongest(cpu(level, &OwnThreads(2)), case.pass(), &lse, &mut best));
        assert!(best.iter().all(|best| (0..10).contains(best)), "{best:?}");
    });
}

#[test]
fn bf16_without_its_instructions() {
    if Cpu::with(Level::Avx2, &OwnThreads(1)).is_none() {
        println!("skipped: this processor has no avx2");
        return;
    }
    let run = || Case::new(Kind::Half, [1, 1, 2, 3, 4], 0, 1.0).run(Level::Avx2, 1);
    assert!(std::panic::catch_unwind(run).is_err());
}

#[test]
fn what_the_kernels_do_not_take() {
    let data = Numbers::Bf16(&[0; 100]);
    assert!(Heads::new(data, [1, 1, 10, 10], [100, 100, 10, 1]).is_some());
    assert!(Heads::new(data, [1, 1, 11, 10], [110, 110, 10, 1]).is_none());
    assert!(Heads::new(data, [1, 1, 10, 10], [100, 100, 1, 10]).is_none());
    assert!(Heads::new(data, [1, 1, 0, 10], [100, 100, 10, 1]).is_none());
    assert!(Heads::new(data, [2, 1, 2, 10], [usize::MAX, 1, 10, 1]).is_none());
    assert!(fits(64) && fits(1) && !fits(0) && !fits(65));
}
