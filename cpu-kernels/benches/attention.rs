//! Attention, votes and the argmax at SD-XL's sizes in f32 and bf16, at every level of this machine. All take turns. The figure is
//! the fastest of all turns in GFLOP/s, because other programs on the machine can only add time.
//!
//! `cargo bench -p atedm-cpu-kernels --bench attention`

use std::time::Instant;

use atedm_cpu_kernels::{
    Attended, Cpu, Heads, Level, Numbers, NumbersMut, OwnThreads, Pass, attention, strongest, votes,
};

const TURNS: usize = 5;

/// Heads, queries, keys, elements of a head.
const SIZES: [[usize; 4]; 5] =
    [[10, 4096, 4096, 64], [20, 1024, 1024, 64], [10, 4096, 77, 64], [20, 1024, 77, 64], [8, 4096, 4096, 40]];

/// Attention, attention with the first vote, a later vote, and the argmax.
type Times = [f64; 4];

/// A level's kernels in one dtype.
#[derive(Clone, Copy)]
struct Kernels<'a> {
    level: Level,
    cpu: Cpu<'a>,
    bf16: bool,
}

fn main() {
    let threads = OwnThreads(std::thread::available_parallelism().map_or(1, usize::from));
    println!("{threads:?}; GFLOP/s");
    println!("{:<39} | attention | and vote |    votes | strongest", "");
    let mut kernels = Vec::new();
    for (bf16, lowest) in [(false, Level::Avx2), (true, Level::Avx512Bf16)] {
        let levels = Level::ALL.into_iter().filter(|&level| level >= lowest);
        kernels.extend(
            levels.filter_map(|level| Some(Kernels { level, cpu: Cpu::with(level, &threads)?, bf16 })),
        );
    }
    for size in SIZES {
        let mut times = vec![[f64::INFINITY; 4]; kernels.len()];
        for _ in 0..TURNS {
            kernels.iter().zip(&mut times).for_each(|(&kernels, times)| turn(kernels, size, times));
        }
        for (Kernels { level, bf16, .. }, [plain, vote, later, argmax]) in kernels.iter().zip(times) {
            let [heads, m, n, dim] = size;
            let rate = |time: f64, products: usize| (2 * products * heads * m * n * dim) as f64 / time * 1e-9;
            let dtype = if *bf16 { "bf16" } else { "f32" };
            println!(
                "{:<39} | {:>9.0} | {:>8.0} | {:>8.0} | {:>9.0}",
                format!("{heads} x {m} x {n} x {dim} {dtype} {}", level.name()),
                rate(plain, 2),
                rate(vote, 2),
                rate(later, 1),
                rate(argmax, 1)
            );
        }
    }
}

/// Updates the fastest times.
fn turn(Kernels { cpu, bf16, .. }: Kernels<'_>, [h, m, n, dim]: [usize; 4], times: &mut Times) {
    // tokens outside, heads inside
    let bits =
        |rows: usize| (0..rows * h * dim).map(|at| 0x3f00 | (at * 37 % 256) as u16).collect::<Vec<_>>();
    let floats =
        |bits: &[u16]| bits.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect::<Vec<_>>();
    let operands = [bits(m), bits(n), bits(n)].map(|bits| (floats(&bits), bits));
    let (mut halves, mut singles) = (vec![0; m * h * dim], vec![0.0; m * h * dim]);
    let mut lse = vec![0.0; h * m];
    let (mut cast, mut best, scores) = (vec![0.0; h * n], vec![0; n], vec![1.0 / m as f32; h * m]);
    let [q, k, v] = &operands;
    let heads = |operand, rows| heads(operand, bf16, [h, rows, dim]);
    let (Some(q), Some(k), Some(v)) = (heads(q, m), heads(k, n), heads(v, n)) else { return };
    let pass = Pass { q, k, scale: 0.125, scores: Some(&scores) };
    let mut attend = |pass, first_vote: Option<&mut [f32]>| {
        let output = if bf16 { NumbersMut::Bf16(&mut halves) } else { NumbersMut::F32(&mut singles) };
        attention(cpu, pass, v, Attended { output, lse: &mut lse, first_vote });
    };
    time(&mut times[0], || attend(Pass { scores: None, ..pass }, None));
    time(&mut times[1], || attend(pass, Some(&mut cast)));
    time(&mut times[2], || votes(cpu, pass, &lse, &mut cast));
    time(&mut times[3], || {
        assert!(strongest(cpu, pass, &lse, &mut best), "no NaN");
    });
}

/// Rows of all heads in one of the dtypes.
fn heads((floats, bits): &(Vec<f32>, Vec<u16>), bf16: bool, [h, rows, dim]: [usize; 3]) -> Option<Heads<'_>> {
    let numbers = if bf16 { Numbers::Bf16(bits) } else { Numbers::F32(floats) };
    Heads::new(numbers, [1, h, rows, dim], [rows * h * dim, dim, h * dim, 1])
}

fn time(best: &mut f64, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    *best = best.min(start.elapsed().as_secs_f64());
}
