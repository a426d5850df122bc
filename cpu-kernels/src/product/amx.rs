//! The sums of 32 rows and 32 columns in AMX's tile registers.
//!
//! A tile register has 16 rows of 64 bytes. `tdpbf16ps` adds to 16 x 16 sums the products of 16 rows of 32 bf16 and 16
//! columns of as many. Four registers hold the sums, two hold rows and two hold columns.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;

use super::pack::{Panel, Row};
use super::tile::Sums;
use crate::lanes::LANES;

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

    /// `sums[i, j] = [sums[i, j] +] Σ_k left[i, k] · panel[k, j]` for pairs of bf16, as [`pairs`](super::tile::pairs). A
    /// panel has a multiple of 16 words.
    pub(crate) fn pairs(
        &self,
        left: &[Row; ROWS],
        panel: &Panel,
        sums: &mut [Sums],
        stride: usize,
        add: bool,
    ) {
        let steps = panel.len() / LANES;
        assert!(panel.len() * 4 <= size_of::<Row>(), "a panel that is longer than a row");
        assert!(sums.len() > (ROWS - 1) * stride && steps > 0, "a sum for every row");
        let (by_row, by_sums) = (size_of::<Row>(), stride * size_of::<Sums>());
        // SAFETY: the tile registers exist and are set up (`new`). Loads read 32 rows of `left`, 64 bytes at a time up to the
        // panel's length, which is at most a row's; and 16 words of 32 columns of `panel`, `steps` times. Sums are 128
        // bytes in each of 32 rows that lie inside `sums`.
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
                "tileloadd tmm6, [{columns} + {by_word}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{columns} + {by_word} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{rows_low} + {by_row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {rows}, 64",
                "add {rows_low}, 64",
                "add {columns}, 2048",
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
                rows = inout(reg) left.as_ptr() => _,
                rows_low = inout(reg) left.as_ptr().wrapping_add(16) => _,
                by_row = in(reg) by_row,
                columns = inout(reg) panel.as_ptr() => _,
                by_word = in(reg) 128_usize,
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
