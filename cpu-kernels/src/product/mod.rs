//! Matrix products and convolutions of f32 and bf16, summed in f32.
//!
//! Of the two operands of a linear layer, the smaller one is copied once, as panels of columns: the right operand. The rows of
//! the other are the left one. So a large weight is read where it lies, and the result is written with its axes swapped. Of a
//! convolution, the weight is the left operand.
//!
//! A task is a block of left rows and right columns. For each part of the depth it takes the left rows, tile after tile, and
//! adds their products with every panel to its sums. An image's panels are copied for each block. AMX reads most left
//! rows where they lie. Other tiles are copied to the first cache just before their use. At last it adds the bias and writes
//! the block. The sizes of blocks depend on the operands alone, so the threads change nothing.
//!
//! | file | what |
//! |---|---|
//! | `operands` | matrices in memory, and the place of the result |
//! | `unit` | the instructions, and the choice among them |
//! | `job` | one product: operands and order of the result |
//! | `call` | the product, cut into blocks |
//! | `pack` | copies of the operands, as 32-bit words |
//! | `image` | images as right operands |
//! | `finish` | biases, gates, and the place of each sum |
//! | `tile`, `crate::amx` | the sums of a tile, by three kinds of instructions |

#[cfg(target_arch = "x86_64")]
mod call;
#[cfg(target_arch = "x86_64")]
mod finish;
#[cfg(target_arch = "x86_64")]
mod image;
#[cfg(target_arch = "x86_64")]
mod job;
mod operands;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;
mod unit;

pub use operands::{Bias, Destination, Geometry, Matrix, Numbers, NumbersMut};
pub use unit::Unit;

use crate::Threads;
use crate::cpu::Level;
#[cfg(target_arch = "x86_64")]
use {
    image::{Band, bands},
    job::{Call, Order, Right},
    pack::{Packed, Word},
};

/// Proof that this machine has a unit, with the threads to use.
#[derive(Debug, Clone, Copy)]
pub struct Products<'a> {
    unit: Unit,
    #[cfg(target_arch = "x86_64")]
    threads: &'a dyn Threads,
    #[cfg(not(target_arch = "x86_64"))]
    never: (std::convert::Infallible, std::marker::PhantomData<&'a ()>),
}

impl<'a> Products<'a> {
    /// Products of f32. `None` if this machine has no AVX-512.
    pub fn of_f32(threads: &'a dyn Threads) -> Option<Self> {
        Self::with(Unit::Fma, threads)
    }

    /// Products of bf16 by the fastest unit. `None` if this machine has no AVX-512.
    pub fn of_bf16(threads: &'a dyn Threads) -> Option<Self> {
        let unit = Unit::for_bf16(Level::here(), Level::limit().is_some(), Level::amd())?;
        Self::with(unit, threads)
    }

    /// Products by this unit. `None` if this machine lacks it.
    #[cfg(target_arch = "x86_64")]
    pub fn with(unit: Unit, threads: &'a dyn Threads) -> Option<Self> {
        (Level::here() >= unit.level()).then_some(Self { unit, threads })
    }

    /// Always `None`, because the kernels are written for x86.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn with(_unit: Unit, _threads: &'a dyn Threads) -> Option<Self> {
        None
    }

    /// The unit.
    pub fn unit(&self) -> Unit {
        self.unit
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Products<'_> {
    /// A linear layer; see the version for x86.
    pub fn linear(&self, _left: Matrix<'_>, _right: Matrix<'_>, _into: Destination<'_>) {
        match self.never.0 {}
    }

    /// A gated linear layer; see the version for x86.
    pub fn geglu(&self, _left: Matrix<'_>, _right: Matrix<'_>, _into: Destination<'_>) {
        match self.never.0 {}
    }

    /// A convolution; see the version for x86.
    pub fn convolution(&self, _: Numbers<'_>, _weight: Matrix<'_>, _: Geometry, _into: Destination<'_>) {
        match self.never.0 {}
    }
}

#[cfg(target_arch = "x86_64")]
impl Products<'_> {
    /// What a word of these numbers holds. Pairs of channels need an even number of them.
    fn unit_for(&self, numbers: Numbers<'_>, even: bool) -> (Unit, Word) {
        match (self.unit, numbers) {
            (Unit::Pairs | Unit::Tiles, Numbers::Bf16(_)) if even => (self.unit, Word::Pair),
            _ => (Unit::Fma, Word::Single),
        }
    }

    /// Writes `left · rightᵀ + bias`: a linear layer of the rows of `left`, with the weight `right` `[out, in]`.
    ///
    /// # Panics
    /// If the operands' sizes do not fit each other, or the operands have two dtypes.
    pub fn linear(&self, left: Matrix<'_>, right: Matrix<'_>, into: Destination<'_>) {
        let (left, right, order) = if left.rows < right.rows {
            (right, left, Order::ColumnsFirst)
        } else {
            (left, right, Order::RowsFirst)
        };
        self.matrices(left, right, order, into);
    }

    /// Writes `value · GELU(gate)`, where `[value, gate] = left · rightᵀ + bias`: the first half of the weight's rows
    /// `[2 out, in]` gives the values.
    ///
    /// # Panics
    /// If the operands' sizes do not fit each other, or the operands have two dtypes.
    pub fn geglu(&self, left: Matrix<'_>, right: Matrix<'_>, into: Destination<'_>) {
        assert!(right.rows.is_multiple_of(2), "as many gates as values");
        self.matrices(right, left, Order::Gated, into);
    }

    fn matrices(&self, left: Matrix<'_>, right: Matrix<'_>, order: Order, into: Destination<'_>) {
        assert!(left.depth == right.depth, "rows of {} and {} elements", left.depth, right.depth);
        let (unit, word) = self.unit_for(left.numbers, true);
        // SAFETY: `Products` proves that the machine has AVX-512.
        #[allow(unsafe_code)]
        let packed = unsafe { Packed::new(self.threads, &right, word) };
        let right = Right::Packed(&packed, right.rows);
        Call { unit, word, left, right, order, threads: self.threads }.run(into, 0);
    }

    /// Writes the convolution of images `[b, ci, h, w]` to `[b, co, oh, ow]`. The weight is `[co, kh · kw · ci]`: the channels
    /// of each place of the kernel lie together.
    ///
    /// # Panics
    /// If the operands' sizes do not fit each other, or the operands have two dtypes.
    pub fn convolution(
        &self,
        images: Numbers<'_>,
        weight: Matrix<'_>,
        geometry: Geometry,
        into: Destination<'_>,
    ) {
        let Geometry { input: (channels, height, width), output, kernel, .. } = geometry;
        let (size, pixels) = (channels * height * width, output.1 * output.2);
        assert!(
            weight.rows == output.0 && weight.depth == channels * kernel.0 * kernel.1 && size > 0,
            "a weight for every channel"
        );
        let (unit, word) = self.unit_for(images, channels.is_multiple_of(2));
        let Destination { mut numbers, bias, .. } = into;
        for at in 0..images.len() / size {
            let image = images.part(at * size, size);
            for (first, len) in bands(geometry, word) {
                // SAFETY: `Products` proves that the machine has AVX-512.
                #[allow(unsafe_code)]
                let band = unsafe { Band::new(self.threads, image, geometry, word, (first, len)) };
                let (right, order) = (Right::Image(&band), Order::RowsFirst);
                let call = Call { unit, word, left: weight, right, order, threads: self.threads };
                let out = numbers.part(at * output.0 * pixels, output.0 * pixels);
                call.run(Destination::new(out, pixels, bias), first * output.2);
            }
        }
    }
}
