//! What both kinds of blocks share: the call, its tasks, and the results of a row.

use std::arch::x86_64::{_mm512_mul_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
use std::f64::consts::LN_2;
use std::sync::Mutex;

use super::share::{At, Part, Tally, check, parts, rows_of_task};
use crate::ballot::{Ballot, in_order};
use crate::element::Element;
use crate::lanes::{LANES, Lanes, NO_LANES};
use crate::output::Output;
use crate::pack::{Grain, Panel};
use crate::packed::Packed;
use crate::threads::parallel;
use crate::typed::{Typed, TypedPass};
use crate::{Attended, Cpu, Heads, Pass};

/// The working memory of one thread, which attends for a block of rows.
///
/// # Safety of its functions
/// The unsafe functions need a processor with AVX512-BF16, and those of blocks in tiles need AMX.
#[allow(unsafe_code)]
pub(super) trait Block<E: Element>: Sized {
    /// The largest number of rows.
    const ROWS: usize;
    /// How it reads keys and values.
    const GRAIN: Grain;

    /// With room for the call's panels.
    unsafe fn new(call: &Call<'_, E>) -> Self;
    /// Computes the results of `len` rows of a head from `start` on.
    unsafe fn attend(&mut self, call: &Call<'_, E>, head: At, start: usize, len: usize);
    /// The results of a row.
    fn row(&self, at: usize) -> Row<'_>;
    /// Adds the votes of the first `len` rows, with `s_i / l_i` of every row.
    unsafe fn cast(&self, len: usize, shares: &[f32], ballots: &mut [Ballot]);
}

/// The results of a row.
pub(super) struct Row<'a> {
    /// `−r_i`.
    pub(super) shift: f32,
    /// The lanes of `l_i`.
    pub(super) sum: Lanes,
    /// `O_i`.
    pub(super) out: &'a [Lanes],
}

/// It is one parallel region. The first task of a head packs it, and the last task adds its votes.
pub(super) fn run<E: Element, B: Block<E>>(cpu: Cpu<'_>, pass: Pass<'_>, v: Heads<'_>, into: Attended<'_>) {
    let (pass, v) = (TypedPass::<E>::new(pass), Typed::<E>::new(v));
    let ([_, heads, m, n], [_, _, _, dim]) = (pass.sizes(), v.dims());
    let Attended { output, lse, first_vote } = into;
    let output = E::slice_mut(output);
    check(&pass, &v, output, lse);
    let rows = rows_of_task(m, B::ROWS);
    let tallies = Tally::of_heads(&pass, first_vote, rows);
    let call = Call {
        pass,
        packed: Packed::new(cpu, pass.k, v, B::GRAIN),
        output: Output::new(output),
        dim,
        panels: Panel::all(n, B::GRAIN).collect(),
        tallies,
    };
    // SAFETY: `Cpu` proves that the machine has the instructions.
    #[allow(unsafe_code)]
    parallel(
        cpu.threads,
        parts(lse, heads, m, rows),
        || unsafe { B::new(&call) },
        |block, part| unsafe { call.part(block, part) },
    );
}

/// The data that all tasks share.
pub(super) struct Call<'a, E> {
    pub(super) pass: TypedPass<'a, E>,
    pub(super) packed: Packed<'a, E>,
    output: Output<'a, E>,
    /// The number of elements in a value.
    pub(super) dim: usize,
    pub(super) panels: Vec<Panel>,
    /// One for each head. Empty if there is no vote.
    pub(super) tallies: Vec<Mutex<Tally<'a>>>,
}

impl<E: Element> Call<'_, E> {
    /// Computes all blocks of one task.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn part<B: Block<E>>(&self, block: &mut B, part: Part<'_>) {
        let Part { head, start, lse } = part;
        let tally = self.tallies.get(head.0 * self.pass.q.dims()[1] + head.1);
        let mut ballots = vec![[NO_LANES; 4]; if tally.is_some() { self.panels.len() } else { 0 }];
        for (at, lse) in lse.chunks_mut(B::ROWS).enumerate() {
            let start = start + at * B::ROWS;
            // SAFETY: `Cpu` proves that the machine has the instructions.
            #[allow(unsafe_code)]
            unsafe {
                block.attend(self, head, start, lse.len());
            }
            self.finish(block, head, start, lse, &mut ballots);
        }
        if let Some(mut tally) = tally.and_then(|tally| tally.lock().ok()) {
            tally.add(start, ballots.iter().map(in_order::<E>).collect());
        }
    }

    /// Writes the results of a block and casts its votes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn finish<B: Block<E>>(
        &self,
        block: &B,
        head: At,
        start: usize,
        lse: &mut [f32],
        ballots: &mut [Ballot],
    ) {
        let Self { pass, output, dim, .. } = self;
        let [_, heads, m, _] = pass.sizes();
        let mut shares = vec![0f32; B::ROWS];
        for (i, (lse, share)) in lse.iter_mut().zip(&mut shares).enumerate() {
            let Row { shift, sum, out } = block.row(i);
            let sum = _mm512_reduce_add_ps(sum);
            let inverse = 1.0 / sum;
            *lse = (f64::from(sum.ln()) - f64::from(shift) * LN_2) as f32;
            *share = pass.scores.map_or(0.0, |s| s[(head.0 * heads + head.1) * m + start + i] * inverse);
            let at = ((head.0 * m + start + i) * heads + head.1) * dim;
            // SAFETY: only this task uses this row of this head.
            #[allow(unsafe_code)]
            let to = unsafe { output.row(at, *dim) };
            for (to, &lanes) in to.chunks_mut(LANES).zip(out) {
                // SAFETY: the features are those of this function.
                #[allow(unsafe_code)]
                let rounded = unsafe { E::round(_mm512_mul_ps(lanes, _mm512_set1_ps(inverse))) };
                to.copy_from_slice(&rounded[..to.len()]);
            }
        }
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            block.cast(lse.len(), &shares, ballots);
        }
    }
}
