//! Linear layers and convolutions at SD-XL's sizes, and one of a small model, by every unit of this machine and, in f32, by the crate `gemm`. All take
//! turns. The figure is the fastest of all turns in GFLOP/s, because other programs on the machine can only add time. Every
//! turn has another weight, so weights come from far memory, as in a model.
//!
//! `cargo bench -p atedm-cpu-kernels --bench products`

use std::time::Instant;

use atedm_cpu_kernels::{
    Bias, Destination, Geometry, Matrix, Numbers, NumbersMut, OwnThreads, Products, Unit,
};

const TURNS: usize = 9;

/// A weight for each turn, in a row.
struct Weights<T> {
    all: Vec<T>,
    len: usize,
}

impl<T: Clone> Weights<T> {
    fn new(value: T, len: usize) -> Self {
        Self { all: vec![value; len * TURNS], len }
    }

    fn of(&self, turn: usize) -> &[T] {
        &self.all[turn * self.len..][..self.len]
    }
}

/// Rows, depth, outputs.
const LINEAR: [(usize, usize, usize); 6] = [
    (4096, 640, 640),
    (1024, 1280, 1280),
    (1024, 1280, 10240),
    (1024, 5120, 1280),
    (256, 1280, 1280),
    (77, 2048, 1280),
];

/// Input channels, output channels, side, kernel.
const CONVOLUTIONS: [(usize, usize, usize, usize); 5] =
    [(320, 320, 128, 3), (640, 640, 64, 3), (1280, 1280, 32, 3), (960, 640, 64, 1), (64, 64, 32, 3)];

fn main() {
    let threads = OwnThreads(std::thread::available_parallelism().map_or(1, usize::from));
    let units = [Unit::Fma, Unit::Pairs, Unit::Tiles];
    println!("{threads:?}; GFLOP/s");
    println!("{:<24} | {:>8} | {:>8} | {:>8} | {:>8} | {:>8}", "", "gemm", "f32", "Fma", "Pairs", "Tiles");
    for (rows, depth, out) in LINEAR {
        let (x, weights) = (vec![0.5f32; rows * depth], Weights::new(0.25f32, out * depth));
        let (half_x, half_weights) = (vec![0x3f00u16; rows * depth], Weights::new(0x3e80u16, out * depth));
        let (mut y, mut half_y) = (vec![0f32; rows * out], vec![0u16; rows * out]);
        let mut times = [f64::INFINITY; 5];
        for turn in 0..TURNS {
            let (w, half_w) = (weights.of(turn), half_weights.of(turn));
            time(&mut times[0], || by_gemm(&x, w, &mut y, (rows, depth, out), threads));
            for (unit, time_of) in units.into_iter().zip(1..) {
                let Some(products) = Products::with(unit, &threads) else { continue };
                let matrix = |numbers, rows| Matrix::new(numbers, rows, depth, depth);
                if unit == Unit::Fma {
                    let into = Destination::new(NumbersMut::F32(&mut y), out, Bias::None);
                    if let (Some(x), Some(w)) = (matrix(Numbers::F32(&x), rows), matrix(Numbers::F32(w), out))
                    {
                        time(&mut times[1], || products.linear(x, w, into));
                    }
                }
                let into = Destination::new(NumbersMut::Bf16(&mut half_y), out, Bias::None);
                let (x, w) = (matrix(Numbers::Bf16(&half_x), rows), matrix(Numbers::Bf16(half_w), out));
                if let (Some(x), Some(w)) = (x, w) {
                    time(&mut times[1 + time_of], || products.linear(x, w, into));
                }
            }
        }
        line(&format!("{rows} x {depth} x {out}"), (2 * rows * depth * out) as f64, times);
    }
    for (ci, co, side, kernel) in CONVOLUTIONS {
        let geometry = Geometry {
            input: (ci, side, side),
            output: (co, side, side),
            kernel: (kernel, kernel),
            stride: 1,
            before: kernel / 2,
        };
        let depth = ci * kernel * kernel;
        let pixels = side * side;
        let (x, weights) = (vec![0.5f32; ci * pixels], Weights::new(0.25f32, co * depth));
        let (half_x, half_weights) = (vec![0x3f00u16; x.len()], Weights::new(0x3e80u16, co * depth));
        let (mut y, mut half_y) = (vec![0f32; co * pixels], vec![0u16; co * pixels]);
        let mut times = [f64::INFINITY; 5];
        for turn in 0..TURNS {
            let (w, half_w) = (weights.of(turn), half_weights.of(turn));
            for (unit, time_of) in units.into_iter().zip(1..) {
                let Some(products) = Products::with(unit, &threads) else { continue };
                let matrix = |numbers| Matrix::new(numbers, co, depth, depth);
                if let (Unit::Fma, Some(w)) = (unit, matrix(Numbers::F32(w))) {
                    let into = Destination::new(NumbersMut::F32(&mut y), pixels, Bias::None);
                    time(&mut times[1], || products.convolution(Numbers::F32(&x), w, geometry, into));
                }
                let into = Destination::new(NumbersMut::Bf16(&mut half_y), pixels, Bias::None);
                if let Some(w) = matrix(Numbers::Bf16(half_w)) {
                    let image = Numbers::Bf16(&half_x);
                    time(&mut times[1 + time_of], || products.convolution(image, w, geometry, into));
                }
            }
        }
        line(&format!("conv{kernel} {ci}>{co} {side}"), (2 * depth * co * pixels) as f64, times);
    }
}

fn time(best: &mut f64, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    *best = best.min(start.elapsed().as_secs_f64());
}

fn line(name: &str, flop: f64, times: [f64; 5]) {
    let rates = times.map(|time| format!("{:>8.0}", flop / time * 1e-9));
    println!("{name:<24} | {}", rates.join(" | "));
}

/// `y = x wᵀ` by the crate `gemm`.
fn by_gemm(x: &[f32], w: &[f32], y: &mut [f32], (m, k, n): (usize, usize, usize), threads: OwnThreads) {
    assert!(x.len() == m * k && w.len() == n * k && y.len() == m * n);
    // SAFETY: the three matrices lie inside their slices (checked), and the destination is borrowed mutably.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(threads.0),
        );
    }
}
