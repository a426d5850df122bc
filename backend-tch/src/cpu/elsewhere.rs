//! The signatures of the kernels on machines without them. They need a [`Cpu`], and none can exist there.

use super::{Attended, Cpu, Heads, Pass};

pub(crate) fn attention(cpu: Cpu, _pass: Pass<'_>, _v: Heads<'_>, _into: Attended<'_>) {
    match cpu.never {}
}

pub(crate) fn votes(cpu: Cpu, _pass: Pass<'_>, _lse: &[f32], _into: &mut [f32]) {
    match cpu.never {}
}

pub(crate) fn strongest(cpu: Cpu, _pass: Pass<'_>, _lse: &[f32], _into: &mut [i64]) -> bool {
    match cpu.never {}
}
