//! Attention, votes and the argmax at SD-XL's sizes in bf16, at every level of this machine. All take turns. The figure is the
//! fastest of all turns in GFLOP/s, because other programs on the machine can only add time.
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

fn main() {
    let threads = OwnThreads(std::thread::available_parallelism().map_or(1, usize::from));
    println!("{threads:?}; GFLOP/s");
    println!("{:<34} | attention | and vote |    votes | strongest", "");
    for size in SIZES {
        let cpus: Vec<_> =
            Level::ALL.iter().filter_map(|&level| Some((level, Cpu::with(level, &threads)?))).collect();
        let mut times = vec![[f64::INFINITY; 4]; cpus.len()];
        for _ in 0..TURNS {
            cpus.iter().zip(&mut times).for_each(|(&(_, cpu), times)| turn(cpu, size, times));
        }
        for ((level, _), [plain, vote, later, argmax]) in cpus.iter().zip(times) {
            let [heads, m, n, dim] = size;
            let rate = |time: f64, products: usize| (2 * products * heads * m * n * dim) as f64 / time * 1e-9;
            println!(
                "{:<34} | {:>9.0} | {:>8.0} | {:>8.0} | {:>9.0}",
                format!("{heads} x {m} x {n} x {dim} {}", level.name()),
                rate(plain, 2),
                rate(vote, 2),
                rate(later, 1),
                rate(argmax, 1)
            );
        }
    }
}

/// Updates the fastest times.
fn turn(cpu: Cpu<'_>, [h, m, n, dim]: [usize; 4], times: &mut Times) {
    // tokens outside, heads inside
    let bits =
        |rows: usize| (0..rows * h * dim).map(|at| 0x3f00 | (at * 37 % 256) as u16).collect::<Vec<_>>();
    let (q, k, v) = (bits(m), bits(n), bits(n));
    let heads =
        |bits, rows| Heads::new(Numbers::Bf16(bits), [1, h, rows, dim], [rows * h * dim, dim, h * dim, 1]);
    let (mut output, mut lse) = (vec![0; m * h * dim], vec![0.0; h * m]);
    let (mut cast, mut best, scores) = (vec![0.0; h * n], vec![0; n], vec![1.0 / m as f32; h * m]);
    let (Some(q), Some(k), Some(v)) = (heads(&q, m), heads(&k, n), heads(&v, n)) else { return };
    let pass = Pass { q, k, scale: 0.125, scores: Some(&scores) };
    time(&mut times[0], || {
        let into = Attended { output: NumbersMut::Bf16(&mut output), lse: &mut lse, first_vote: None };
        attention(cpu, Pass { scores: None, ..pass }, v, into);
    });
    time(&mut times[1], || {
        let first_vote = Some(&mut cast[..]);
        attention(
            cpu,
            pass,
            v,
            Attended { output: NumbersMut::Bf16(&mut output), lse: &mut lse, first_vote },
        );
    });
    time(&mut times[2], || votes(cpu, pass, &lse, &mut cast));
    time(&mut times[3], || {
        assert!(strongest(cpu, pass, &lse, &mut best), "no NaN");
    });
}

fn time(best: &mut f64, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    *best = best.min(start.elapsed().as_secs_f64());
}
