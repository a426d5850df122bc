//! The signatures of the kernels on machines without them. They need a [`Cpu`], and none can exist there.

use crate::{Attended, Cpu, Heads, Pass};

/// Attention; see the version for x86.
pub fn attention(cpu: Cpu<'_>, _pass: Pass<'_>, _v: Heads<'_>, _into: Attended<'_>) {
    match cpu.never.0 {}
}

/// One vote; see the version for x86.
pub fn votes(cpu: Cpu<'_>, _pass: Pass<'_>, _lse: &[f32], _into: &mut [f32]) {
    match cpu.never.0 {}
}

/// The strongest rows; see the version for x86.
#[must_use]
pub fn strongest(cpu: Cpu<'_>, _pass: Pass<'_>, _lse: &[f32], _into: &mut [i64]) -> bool {
    match cpu.never.0 {}
}
