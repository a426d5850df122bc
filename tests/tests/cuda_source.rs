//! The CUDA sources of `atedm-candle`, compiled for the host and compared with the generic bodies.
//!
//! `tests/cuda/harness.cpp` runs the threads of a block as fibers, in several orders, and fails if an order changes a byte.
//! So all of a kernel is tested here, except the few instructions in `device.cuh` and the launch.
#![cfg(target_os = "linux")]
// Helpers of a test are tests, too. A failed `expect` is a failed check.
#![allow(clippy::expect_used)]

use std::f64::consts::LOG2_E;
use std::path::{Path, PathBuf};
use std::process::Command;

use atedm_candle::{CandleTensor, Device};
use atedm_conformance::host::{Array, Draws};
use atedm_conformance::tolerance::assert_arrays_close;
use atedm_core::backend::{Attended, AttentionOptions, GraphRequest, Streamed, generic};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{AttentionGraph, DType, Error, Indices, Partition, Tensor};
use tempfile::TempDir;

/// Batch entries, heads, queries and keys.
type Sizes = [usize; 4];

/// How the rows of `[b, h, rows, dim]` lie in memory.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// In their order.
    Dense,
    /// `[b, rows, h, dim]`, as projections give them.
    TokensOutside,
    /// The same, as one of three tensors in one, with NaN between heads.
    Gaps,
}

const LAYOUTS: [Layout; 3] = [Layout::Dense, Layout::TokensOutside, Layout::Gaps];

/// Words in memory, and the distances between batch entries, heads and rows.
struct Placed {
    bytes: Vec<u8>,
    strides: [usize; 3],
}

impl Placed {
    fn new(x: &Array, dtype: DType, layout: Layout) -> Self {
        let [b, h, rows, dim] = dims(x);
        let strides = match layout {
            Layout::Dense => [h * rows * dim, rows * dim, dim],
            Layout::TokensOutside => [rows * h * dim, dim, h * dim],
            Layout::Gaps => [3 * rows * h * (dim + 8), dim + 8, 3 * h * (dim + 8)],
        };
        let at = |i: usize, j: usize, k: usize| 2 * (i * strides[0] + j * strides[1] + k * strides[2]);
        let words = at(b - 1, h - 1, rows - 1) / 2 + dim;
        let mut bytes = Array::full(&[words], f64::NAN).bytes(dtype);
        for (row, from) in x.bytes(dtype).chunks(2 * dim).enumerate() {
            let (head, row) = (row / rows, row % rows);
            bytes[at(head / h, head % h, row)..][..2 * dim].copy_from_slice(from);
        }
        Self { bytes, strides }
    }
}

fn dims(x: &Array) -> [usize; 4] {
    x.shape[..].try_into().expect("4 axes")
}

/// The queries, keys and values of a case, as the dtype stores them.
struct Case {
    q: Array,
    k: Array,
    v: Array,
    scale: f64,
    layout: Layout,
}

impl Case {
    /// Normal numbers. `size` is the standard deviation of logits.
    fn new(on: &Harness, [b, h, m, n]: Sizes, size: f64, layout: Layout) -> Self {
        let mut draws = Draws::new((b * 1000 + h * 100 + m * 10 + n) as u64);
        let mut normals = |rows| draws.normals(&[b, h, rows, on.dim]);
        let (q, k, v) = (normals(m).map(|x| x * size), normals(n), normals(n));
        let scale = 1.0 / (on.dim as f64).sqrt();
        Self { q: q.rounded(on.dtype), k: k.rounded(on.dtype), v: v.rounded(on.dtype), scale, layout }
    }

    fn sizes(&self) -> Sizes {
        let ([b, h, m, _], [_, _, n, _]) = (dims(&self.q), dims(&self.k));
        [b, h, m, n]
    }

    /// The last batch entry alone.
    fn last_entry(&self) -> Self {
        let last = |x: &Array| {
            let [b, h, rows, dim] = dims(x);
            Array::new(&[1, h, rows, dim], x.data[(b - 1) * h * rows * dim..].to_vec())
        };
        Self { q: last(&self.q), k: last(&self.k), v: last(&self.v), ..*self }
    }
}

/// The results of the kernels.
struct Results {
    output: Array,
    lse: Array,
    votes: Array,
    best: Vec<Vec<u32>>,
    unordered: bool,
    /// The files of output, log-sum-exp and votes.
    bytes: [Vec<u8>; 3],
}

/// The kernels for one dtype and head size, as a program.
struct Harness {
    folder: TempDir,
    program: PathBuf,
    dtype: DType,
    dim: usize,
}

impl Harness {
    /// Compiles the sources. `None` without a compiler.
    fn compile(dtype: DType, dim: usize) -> Option<Self> {
        if Command::new("c++").arg("--version").output().is_err() {
            println!("skipped: no `c++` here, so the CUDA sources cannot be compiled for the host");
            return None;
        }
        let folder = TempDir::new().expect("a folder");
        let program = folder.path().join("harness");
        let mut compiler = Command::new("c++");
        compiler.args(["-std=c++17", "-O2", "-w"]);
        // the fibers jump between stacks, which the fortified `longjmp` forbids; rows are read as pairs of words
        compiler.args(["-U_FORTIFY_SOURCE", "-fno-strict-aliasing"]);
        let rows = if dim <= 64 { 128 } else { 64 };
        compiler.args(["-DWARPS=4", "-DVOTES_ROWS=128", "-DSTRONGEST_ROWS=32"]);
        compiler.args([format!("-DDIM={dim}"), format!("-DATTENTION_ROWS={rows}")]);
        if dtype == DType::BF16 {
            compiler.arg("-DBF16");
        }
        compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/harness.cpp"));
        let outcome = compiler.arg("-o").arg(&program).output().expect("the compiler");
        assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
        Some(Self { folder, program, dtype, dim })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.file(name), bytes).expect("a file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).expect("a file")
    }

    /// The f32 or words in a result's file.
    fn array(&self, name: &str, dtype: DType, shape: &[usize]) -> Array {
        let tensor =
            CandleTensor::from_bytes(&self.read(name), dtype, shape, &Device::Cpu).expect("its size");
        Array::read(&tensor).expect("on the host")
    }

    fn numbers(&self, name: &str) -> Vec<u32> {
        self.read(name).chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    fn call(&self, kernel: &str, case: &Case, operands: &[&Placed], more: &[usize]) {
        let factor = (case.scale * LOG2_E) as f32;
        let mut program = Command::new(&self.program);
        program.arg(kernel).arg(self.folder.path());
        program.args(case.sizes().map(|size| size.to_string())).arg(factor.to_string());
        program
            .args(operands.iter().flat_map(|x| x.strides).chain(more.iter().copied()).map(|x| x.to_string()));
        let outcome = program.output().expect("the program");
        let fault = String::from_utf8_lossy(&outcome.stderr);
        assert!(outcome.status.success(), "{kernel} {:?} {:?}: {fault}", case.sizes(), outcome.status);
    }

    /// Runs all kernels on a case. The lists are rows of queries and of keys.
    fn run(&self, case: &Case, scores: &Array, partition: &Partition<NdTensor>) -> Results {
        let [b, h, m, n] = case.sizes();
        let [q, k, v] = [&case.q, &case.k, &case.v].map(|x| Placed::new(x, self.dtype, case.layout));
        for (name, placed) in [("q", &q), ("k", &k), ("v", &v)] {
            self.write(name, &placed.bytes);
        }
        self.call("attention", case, &[&q, &k, &v], &[]);
        let output = self.array("output", self.dtype, &[b, m, h, self.dim]);
        self.write("scores", &scores.bytes(DType::F32));
        self.call("votes", case, &[&q, &k], &[]);
        let (kept, pruned) = (partition.kept.dims().1, partition.pruned.dims().1);
        for (name, list) in [("kept", &partition.kept), ("pruned", &partition.pruned)] {
            let rows = list.to_host().expect("on the host").concat();
            self.write(name, &rows.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
        }
        self.call("strongest", case, &[&q, &k], &[kept, pruned]);
        Results {
            output: Array::from_fn(&[b, h, m, self.dim], |i| output.at(&[i[0], i[2], i[1], i[3]])),
            lse: self.array("lse", DType::F32, &[b, h, m]),
            votes: self.array("votes", DType::F32, &[b, h, n]),
            best: self.numbers("rows").chunks(pruned).map(<[u32]>::to_vec).collect(),
            unordered: self.numbers("unordered") != [0],
            bytes: ["output", "lse", "votes"].map(|name| self.read(name)),
        }
    }

    /// Runs the kernels on a case and compares them with the generic bodies in f64.
    fn check(&self, case: &Case) -> Results {
        let [b, h, m, n] = case.sizes();
        let what = |result: &str| {
            format!("{result} of {} {} {:?} {:?}", self.dtype, self.dim, case.sizes(), case.layout)
        };
        let mut draws = Draws::new(1);
        let scores = draws.normals(&[b, h, m]).rounded(DType::F32);
        let partition = partition(&mut draws, case.sizes());
        let got = self.run(case, &scores, &partition);

        let upload = |x: &Array| x.upload::<NdTensor>(DType::F64, &NdDevice).expect("its size");
        let [q, k, v] = [&case.q, &case.k, &case.v].map(upload);
        let options = AttentionOptions { scale: case.scale, bias: None, graph: &GraphRequest::Lazy };
        let Attended { hidden, graph, .. } = generic::attention(&q, &k, &v, options).expect("attention");
        let Some(AttentionGraph::Streamed(expected)) = graph else { panic!("expected a streamed graph") };
        assert_arrays_close(&got.output, &read(&hidden), self.dtype, &what("output"));
        assert_arrays_close(&got.lse, &read(&expected.lse), DType::F32, &what("lse"));

        // The kernels' own log-sum-exp, so that only the votes differ. Votes are about m/n, and no word is rounded.
        let graph = Streamed { q, k, lse: upload(&got.lse), scale: case.scale };
        let votes = generic::votes(&graph, &upload(&scores)).expect("votes");
        let wide = |votes: &Array| votes.map(|vote| vote * n as f64 / m as f64);
        assert_arrays_close(&wide(&got.votes), &wide(&read(&votes)), DType::F16, &what("votes"));

        match generic::strongest(&graph, &partition) {
            Ok(_) => {
                assert!(!got.unordered, "{}: expected no NaN", what("strongest"));
                self.check_best(&graph, &partition, &got.best, &what("strongest"));
            }
            Err(Error::NotFinite { .. }) => assert!(got.unordered, "{}: expected a NaN", what("strongest")),
            Err(error) => panic!("{error}"),
        }
        got
    }

    /// Every choice has the largest head mean, up to rounding, and no lower row is the same query.
    fn check_best(
        &self,
        graph: &Streamed<NdTensor>,
        partition: &Partition<NdTensor>,
        best: &[Vec<u32>],
        what: &str,
    ) {
        let kept = partition.kept.to_host().expect("on the host");
        let means = read(&generic::block(graph, &partition.kept, &partition.pruned).expect("a block"));
        let q = read(&graph.q);
        let [b, pruned, rows] = means.shape[..].try_into().expect("3 axes");
        assert_eq!(best.concat().len(), b * pruned, "{what}: choices");
        let (mut chosen, mut largest) = (Vec::new(), Vec::new());
        for i in 0..b {
            let query = |row: usize| {
                let at = |head: usize, e: usize| q.at(&[i, head, kept[i][row] as usize, e]).to_bits();
                (0..q.shape[1]).flat_map(|head| (0..self.dim).map(move |e| at(head, e))).collect::<Vec<_>>()
            };
            for (j, &row) in best[i].iter().enumerate() {
                let row = row as usize;
                let column = &means.data[(i * pruned + j) * rows..][..rows];
                let max = column.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                // about 1 each, so that the absolute tolerance cannot hide errors
                let unit = if max > 0.0 { 1.0 / max } else { 1.0 };
                chosen.push(column[row] * unit);
                largest.push(max * unit);
                let twins =
                    (0..row).filter(|&other| column[other] == column[row] && query(other) == query(row));
                assert_eq!(twins.count(), 0, "{what}: row {row} of [{i}, {j}] is not the lowest");
            }
        }
        let shape = [b, pruned];
        assert_arrays_close(&Array::new(&shape, chosen), &Array::new(&shape, largest), DType::F16, what);
    }
}

fn read(x: &NdTensor) -> Array {
    Array::read(x).expect("on the host")
}

/// A third of the rows that are both queries and keys is kept, the rest pruned. A single row is both.
fn partition(draws: &mut Draws, [b, _, m, n]: Sizes) -> Partition<NdTensor> {
    let rows = m.min(n);
    let lists: Vec<[Vec<u32>; 2]> = (0..b)
        .map(|_| {
            let kept = draws.subset((rows / 3).max(1), rows);
            let pruned: Vec<u32> = (0..rows as u32).filter(|row| rows == 1 || !kept.contains(row)).collect();
            [kept, pruned]
        })
        .collect();
    let list = |which: usize| {
        let rows: Vec<Vec<u32>> = lists.iter().map(|pair| pair[which].clone()).collect();
        Indices::from_host(&rows, &NdDevice).expect("lists of one length")
    };
    Partition { kept: list(0), pruned: list(1) }
}

const DIMS: [usize; 5] = [16, 32, 40, 64, 128];

/// Calls `check` with the kernels of every head size.
fn each(dtype: DType, check: impl Fn(&Harness)) {
    for dim in DIMS {
        let Some(harness) = Harness::compile(dtype, dim) else { return };
        check(&harness);
    }
}

fn all_cases(on: &Harness) {
    let sizes =
        [[1, 1, 1, 1], [2, 3, 7, 7], [1, 2, 77, 130], [2, 3, 130, 77], [2, 1, 1, 130], [1, 2, 257, 65]];
    for (i, sizes) in sizes.into_iter().enumerate() {
        on.check(&Case::new(on, sizes, 1.0, LAYOUTS[i % 3]));
    }
    a_batch_mate_changes_nothing(on);
    large_logits(on);
    equal_rows(on);
    one_nan(on);
}

/// The second entry of a batch has the same bytes alone.
fn a_batch_mate_changes_nothing(on: &Harness) {
    let case = Case::new(on, [2, 2, 70, 70], 1.0, Layout::Gaps);
    let [both, alone] = [&case, &case.last_entry()].map(|case| {
        let [b, h, m, _] = case.sizes();
        let scores = Array::full(&[b, h, m], 0.5);
        on.run(case, &scores, &partition(&mut Draws::new(2), case.sizes())).bytes
    });
    for (both, alone) in both.iter().zip(&alone) {
        assert!(both[both.len() - alone.len()..] == alone[..], "{} {}", on.dtype, on.dim);
    }
}

/// Logits beyond ±80.
fn large_logits(on: &Harness) {
    let case = Case::new(on, [2, 2, 77, 130], 30.0, Layout::TokensOutside);
    on.check(&case);
    on.check(&Case { scale: -case.scale, ..case });
}

/// Equal queries and equal keys: choices are ties, and the lowest row wins.
fn equal_rows(on: &Harness) {
    let every = |x: &Array, rows: usize| Array::from_fn(&x.shape, |i| x.at(&[i[0], i[1], i[2] % rows, i[3]]));
    let case = Case::new(on, [2, 2, 70, 70], 1.0, Layout::Gaps);
    let twice = Case { q: every(&case.q, 35), k: case.k.clone(), v: case.v.clone(), ..case };
    on.check(&twice);
    on.check(&Case { k: every(&case.k, 1), ..twice });
    let best = on.check(&Case { q: every(&case.q, 1), ..case }).best;
    assert!(best.concat().iter().all(|&row| row == 0), "{} {}: {best:?}", on.dtype, on.dim);
}

/// One NaN reaches exactly the results that it must reach.
fn one_nan(on: &Harness) {
    let fine = || Case::new(on, [2, 2, 70, 75], 1.0, Layout::Dense);
    let last = on.dim - 1;
    let spoil = |x: &mut Array, [b, h, row, e]: [usize; 4]| {
        let [_, heads, rows, dim] = dims(x);
        x.data[((b * heads + h) * rows + row) * dim + e] = f64::NAN;
    };
    let mut case = fine();
    spoil(&mut case.q, [0, 0, 33, 1]);
    on.check(&case);
    let mut case = fine();
    spoil(&mut case.k, [1, 1, 40, last]);
    assert!(on.check(&case).unordered, "all rows of that head are NaN");
    let mut case = fine();
    spoil(&mut case.v, [0, 1, 74, 3]);
    assert!(!on.check(&case).unordered, "values are no part of the map");
}

#[test]
fn bf16_matches_the_generic_bodies() {
    each(DType::BF16, all_cases);
}

#[test]
fn f16_matches_the_generic_bodies() {
    each(DType::F16, all_cases);
}
