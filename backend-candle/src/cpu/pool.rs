//! Rayon's pool and this machine's instructions, for the kernels of [`atedm_cpu_kernels`].

use atedm_cpu_kernels::{Cpu, Products, Threads, parallel};
use candle_core::DType;

/// Rayon's global pool.
#[derive(Debug)]
struct Rayon;

impl Threads for Rayon {
    fn count(&self) -> usize {
        rayon::current_num_threads()
    }

    fn run(&self, threads: usize, work: &(dyn Fn() + Sync)) {
        // The calling thread works too. If it is not one of the pool's, it need not wait for one of them.
        rayon::in_place_scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| work());
            }
            work();
        });
    }
}

/// Runs `task` for every item. Items start in their order.
pub(crate) fn each<I: Send>(items: impl IntoIterator<Item = I>, task: impl Fn(I) + Sync) {
    parallel(&Rayon, items, || (), |(), item| task(item));
}

/// Products of this dtype, if this machine has them.
pub(crate) fn products(dtype: DType) -> Option<Products<'static>> {
    match dtype {
        DType::F32 => Products::of_f32(&Rayon),
        DType::BF16 => Products::of_bf16(&Rayon),
        _ => None,
    }
}

/// Attention in this dtype, if this machine has it.
pub(crate) fn attention(dtype: DType) -> Option<Cpu<'static>> {
    match dtype {
        DType::F32 => Cpu::of_f32(&Rayon),
        DType::BF16 => Cpu::of_bf16(&Rayon),
        _ => None,
    }
}
