//! Attention in blocks of query rows, each against all keys.
//!
//! For a block of rows `i` of one head, panel after panel of 64 keys `j`:
//!
//! ```text
//! S_ij  = q_i·k_j
//! P_ij  = 2^(S_ij · scale · log2 e − r_i)  stored as bf16 or f32;  l_i = Σ_j P_ij before rounding
//! O_i  += Σ_j P_ij v_j
//! ```
//!
//! At the end the results are `O_i / l_i` and `lse_i = r_i ln 2 + ln l_i`. If a vote is requested, there is also
//! `u_j += Σ_i P_ij s_i / l_i` over the block's own `P`, which is stored for it.
//!
//! `r_i` need not be the row's maximum. It must only keep sums from overflow and the largest terms from underflow.
//! `|q_i| max_j |k_j|` bounds the logits, so `r_i = max(0, bound − 80)` is enough, and no pass looks for maxima. If a
//! bound is so far above the true maximum that a row's sum nearly vanishes, the block is computed again with its maxima.
//!
//! Two kinds of [`call::Block`] compute these: `registers` (f32 and bf16) and `tiles` (bf16 on AMX). [`crate::avx2`] does
//! without AVX-512, in f32.

mod call;
mod registers;
pub(crate) mod share;
mod tiles;

use crate::cpu::Level;
use crate::element::Element;
use crate::lanes::LANES;
use crate::{Attended, Cpu, Heads, NumbersMut, Pass, avx2};
use call::run;
use registers::Registers;
use tiles::Tiled;

/// `softmax(q kᵀ scale) v` with the log-sum-exp of every row. With scores it also gives the first vote.
///
/// # Panics
/// If the operands do not fit each other, do not all have one type, or are bf16 where [`Cpu::of_bf16`] is `None`.
pub fn attention(cpu: Cpu<'_>, pass: Pass<'_>, v: Heads<'_>, into: Attended<'_>) {
    match into.output {
        NumbersMut::F32(_) if cpu.level < Level::Avx512Bf16 => avx2::attention(cpu, pass, v, into),
        NumbersMut::F32(_) => by_registers::<f32>(cpu, pass, v, into),
        NumbersMut::Bf16(_) if cpu.level >= Level::Amx => run::<u16, Tiled>(cpu, pass, v, into),
        NumbersMut::Bf16(_) => by_registers::<u16>(cpu.for_bf16(), pass, v, into),
    }
}

fn by_registers<E: Element>(cpu: Cpu<'_>, pass: Pass<'_>, v: Heads<'_>, into: Attended<'_>) {
    match v.dims()[3].div_ceil(LANES) {
        1 => run::<E, Registers<E, 1>>(cpu, pass, v, into),
        2 => run::<E, Registers<E, 2>>(cpu, pass, v, into),
        3 => run::<E, Registers<E, 3>>(cpu, pass, v, into),
        _ => run::<E, Registers<E, 4>>(cpu, pass, v, into),
    }
}
