//! The sums of 32 rows and 32 columns in AMX's tile registers.
//!
//! A tile register has 16 rows of 64 bytes. `tdpbf16ps` adds to 16 x 16 sums the products of 16 rows of 32 bf16 and 16
//! columns of as many. Four registers hold the sums, two hold rows and two hold columns.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;

use crate::lanes::{LANES, Lanes, Words};

/// The number of rows of a tile.
pub(crate) const ROWS: usize = 32;

/// Whether the processor has bf16 tiles, and the system lets this process use them. It asks the system for them.
pub(crate) fn found() -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    // SAFETY: every x86-64 processor has this instruction.
    #[allow(unsafe_code, unused_unsafe)]
    let has = unsafe {
        let (highest, features) = (__cpuid_count(0, 0).eax, __cpuid_count(7, 0).edx);
        // bits of leaf 7: AMX-BF16 and AMX-TILE
        highest >= 7 && features >> 22 & 1 == 1 && features >> 24 & 1 == 1
    };
    has && allowed()
}

/// Asks Linux for the state of the tiles: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`. It holds for all threads.
fn allowed() -> bool {
    const ARCH_PRCTL: i64 = 158;
    let result: i64;
    // SAFETY: this system call reads and writes no memory. It changes what this process may do, and fails on kernels that
    // do not know it.
    #[allow(unsafe_code)]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") 0x1023_i64,
            in("rsi") 18_i64,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Eight tile registers of 16 rows of 64 bytes, as `ldtilecfg` reads their sizes.
#[repr(C, align(64))]
struct Sizes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static SIZES: Sizes = {
    let (mut bytes, mut rows) = ([0; 16], [0; 16]);
    let mut at = 0;
    while at < 8 {
        (bytes[at], rows[at]) = (64, 16);
        at += 1;
    }
    Sizes { palette: 1, start: 0, reserved: [0; 14], bytes, rows }
};

/// An operand in memory. Its tiles follow each other from step to step.
#[derive(Debug, Clone, Copy)]
struct Operand<'a> {
    start: *const u8,
    len: usize,
    /// The bytes between two rows, from the first row to row 16, and between two steps.
    by_row: usize,
    by_half: usize,
    by_step: usize,
    data: PhantomData<&'a [u8]>,
}

impl<'a> Operand<'a> {
    fn new<T>(data: &'a [T], by_row: usize, by_half: usize, by_step: usize) -> Self {
        let start = data.as_ptr().cast();
        Self { start, len: size_of_val(data), by_row, by_half, by_step, data: PhantomData }
    }

    /// Whether it has `bytes` in each of 16 rows, or of twice 16, in every step.
    fn holds(&self, halves: usize, bytes: usize, steps: usize) -> bool {
        let last = |count: usize, by: usize| (count - 1).checked_mul(by);
        let rows = || last(16, self.by_row)?.checked_add(last(halves, self.by_half)?);
        let end = || rows()?.checked_add(last(steps, self.by_step)?)?.checked_add(bytes);
        end().is_some_and(|end| end <= self.len)
    }
}

/// A left operand: 32 rows of 32 bf16 in each step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a>(Operand<'a>);

impl<'a> Left<'a> {
    /// The first row starts with `data`. The strides are in bytes.
    pub(crate) fn new<T>(data: &'a [T], by_row: usize, by_step: usize) -> Self {
        Self::halves(data, by_row, 16 * by_row, by_step)
    }

    /// Rows 16 to 31 start `by_half` bytes after the first row.
    pub(crate) fn halves<T>(data: &'a [T], by_row: usize, by_half: usize, by_step: usize) -> Self {
        Self(Operand::new(data, by_row, by_half, by_step))
    }
}

/// A right operand: 16 words of 32 columns in each step. A word is a pair of bf16 along the inner dimension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Right<'a>(Operand<'a>);

impl<'a> Right<'a> {
    /// Columns `column .. column + 2` of registers `[words, width]`.
    pub(crate) fn new(data: &'a [Words], width: usize, column: usize) -> Self {
        let by_row = width * size_of::<Words>();
        Self(Operand::new(&data[column..], by_row, 0, LANES * by_row))
    }
}

/// This thread's tile registers while they are set up.
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Sets them up.
    ///
    /// # Safety
    /// [`found`] must have returned `true` in this process.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: the instruction exists (the caller's promise), and reads the 64 bytes of `SIZES`.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const SIZES, options(nostack, readonly));
        }
        Self(PhantomData)
    }

    /// `sums[i, j] = [sums[i, j] +] Σ_k left[i, k] · right[k, j]` for 32 rows, 32 columns and `steps` times 16 pairs of bf16.
    /// A row of sums is two registers, and rows begin `stride` registers apart.
    #[inline]
    pub(crate) fn product(
        &self,
        left: Left<'_>,
        right: Right<'_>,
        steps: usize,
        sums: &mut [Lanes],
        stride: usize,
        add: bool,
    ) {
        let (Left(left), Right(right)) = (left, right);
        assert!(steps > 0 && left.holds(2, 64, steps), "left rows of every step");
        assert!(right.holds(1, 128, steps), "right words of every step");
        assert!(sums.len() >= (ROWS - 1) * stride + 2, "a sum for every row");
        let by_sums = stride * size_of::<Lanes>();
        // SAFETY: the tile registers exist and are set up (`new`). In each step, loads read 64 bytes of 32 rows on the left,
        // and 128 bytes of 16 words on the right, which lie inside the operands (checked). Sums are 128 bytes in each of 32
        // rows that lie inside `sums` (checked).
        #[allow(unsafe_code)]
        unsafe {
            asm!(
                "test {add}, {add}",
                "jz 2f",
                "tileloadd tmm0, [{sums} + {by_sums}]",
                "tileloadd tmm1, [{sums} + {by_sums} + 64]",
                "tileloadd tmm2, [{sums_low} + {by_sums}]",
                "tileloadd tmm3, [{sums_low} + {by_sums} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{rows} + {by_row}]",
                "tileloadd tmm6, [{words} + {by_word}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{words} + {by_word} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{rows_low} + {by_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {rows}, {row_step}",
                "add {rows_low}, {row_step}",
                "add {words}, {word_step}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{sums} + {by_sums}], tmm0",
                "tilestored [{sums} + {by_sums} + 64], tmm1",
                "tilestored [{sums_low} + {by_sums}], tmm2",
                "tilestored [{sums_low} + {by_sums} + 64], tmm3",
                add = in(reg) usize::from(add),
                sums = in(reg) sums.as_mut_ptr(),
                sums_low = in(reg) sums.as_mut_ptr().wrapping_add(16 * stride),
                by_sums = in(reg) by_sums,
                rows = inout(reg) left.start => _,
                rows_low = inout(reg) left.start.wrapping_add(left.by_half) => _,
                by_row = in(reg) left.by_row,
                row_step = in(reg) left.by_step,
                words = inout(reg) right.start => _,
                by_word = in(reg) right.by_row,
                word_step = in(reg) right.by_step,
                steps = inout(reg) steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tile registers exist (`new`). Their contents are no longer needed.
        #[allow(unsafe_code)]
        unsafe {
            asm!("tilerelease", options(nostack, nomem));
        }
    }
}
