//! The change that a layer of a LoRA makes to a weight.
//!
//! ```text
//! LoRA    up · down                       up [o, r], down [r, i·k]; a kernel of k values belongs to the inputs
//! LoHa    (w1_a · w1_b) ⊙ (w2_a · w2_b)   as two LoRAs
//! LoKr    w1 ⊗ w2                         w1 [o₁, i₁], w2 [o₂, i₂·k], each whole or a product
//! ```
//! Each is multiplied by `alpha / rank`. In files of convolutions, a product may have its kernel in a core of its own.
//!
//! Source: kohya's `networks/lora.py`; LyCORIS' modules `locon`, `loha` and `lokr`; PEFT's tuners of these names.

use atedm_core::{Result, Tensor};

use super::factor::{Factor, Product, Reader};
use super::leaves::{Family, LayerNames};
use crate::checkpoint::single::Shapes;

/// How the factors of a layer make its change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The product itself.
    Plain(Product),
    /// Two products, multiplied element by element.
    Hadamard(Product, Product),
    /// Kronecker's product.
    Kronecker(Factor, Factor),
}

/// A change of a weight, as a matrix `[outputs, inputs · kernel]`.
pub(super) enum Change<T> {
    /// The product of two thin matrices.
    Product(T, T),
    /// The matrix.
    Matrix(T),
}

impl Form {
    /// Finds the tensors of a layer, which must fit each other.
    ///
    /// # Errors
    /// [`atedm_core::Error::Weights`] naming the module or tensor.
    pub(super) fn of(shapes: &Shapes, module: &str, names: &LayerNames) -> Result<Self> {
        let LayerNames { family, factors: [first, second], .. } = names;
        let product = |names| Product::of(shapes, module, *family, names);
        let factor = |names| Factor::of(shapes, module, *family, names);
        Ok(match family {
            Family::Lora => Self::Plain(product(first)?),
            Family::Lokr => Self::Kronecker(factor(first)?, factor(second)?),
            Family::Loha => {
                let (first, second) = (product(first)?, product(second)?);
                if first.size() != second.size() {
                    let (one, other) = (first.size(), second.size());
                    let reason = format!("expected two products of one shape, got {one:?} and {other:?}");
                    return Err(shapes.error(module, reason));
                }
                Self::Hadamard(first, second)
            }
        })
    }

    /// The rank by which `alpha` is divided. `None` if no factor is a product: then `alpha` has no meaning.
    pub(super) fn rank(&self) -> Option<usize> {
        match self {
            Self::Plain(product) | Self::Hadamard(product, _) => Some(product.rank()),
            Self::Kronecker(first, second) => second.rank().or(first.rank()),
        }
    }

    /// Rows and columns of the change.
    pub(super) fn size(&self) -> [usize; 2] {
        match self {
            Self::Plain(product) | Self::Hadamard(product, _) => product.size(),
            Self::Kronecker(first, second) => {
                let ([a, b], [c, d]) = (first.size(), second.size());
                [a.saturating_mul(c), b.saturating_mul(d)]
            }
        }
    }

    /// The change times `scale`.
    ///
    /// # Errors
    /// The errors of reading the tensors, and of the backend.
    pub(super) fn change<T: Tensor>(&self, scale: f64, reader: &Reader<'_, T>) -> Result<Change<T>> {
        let matrix = match self {
            Self::Plain(product) => {
                let (left, right) = product.thin(reader)?;
                return Ok(Change::Product(left.affine(scale, 0.0)?, right));
            }
            Self::Hadamard(first, second) => first.matrix(reader)?.mul(&second.matrix(reader)?)?,
            Self::Kronecker(first, second) => {
                let ([a, b], [c, d]) = (first.size(), second.size());
                let first = first.matrix(reader)?.reshape(&[a, 1, b, 1])?;
                let second = second.matrix(reader)?.reshape(&[1, c, 1, d])?;
                first.mul(&second)?.reshape(&[a * c, b * d])?
            }
        };
        Ok(Change::Matrix(matrix.affine(scale, 0.0)?))
    }
}
