//! Matrices that a LoRA file holds whole or as products.

use atedm_core::{DType, Result, Tensor};

use super::leaves::{FactorNames, Family};
use crate::checkpoint::single::Shapes;
use crate::weights::SafetensorsSource;

/// A stored tensor. As a matrix it has its first axis as rows, and all others as columns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    name: String,
    shape: Vec<usize>,
}

impl Stored {
    fn of(shapes: &Shapes, name: &str) -> Result<Self> {
        match shapes.get(name) {
            Some(shape) if (2..=4).contains(&shape.len()) && !shape.contains(&0) => {
                Ok(Self { name: name.to_string(), shape: shape.to_vec() })
            }
            shape => {
                Err(shapes.error(name, format!("expected 2 to 4 axes, got {:?}", shape.unwrap_or_default())))
            }
        }
    }

    fn rows(&self) -> usize {
        self.shape[0]
    }

    fn columns(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

/// Reads stored matrices in a dtype onto a device.
pub(super) struct Reader<'a, T: Tensor> {
    pub(super) source: &'a SafetensorsSource<()>,
    pub(super) dtype: DType,
    pub(super) device: &'a T::Device,
}

impl<T: Tensor> Reader<'_, T> {
    fn matrix(&self, stored: &Stored) -> Result<T> {
        let tensor: T = self.source.read(&stored.name, &stored.shape, self.dtype, self.device)?;
        tensor.reshape(&[stored.rows(), stored.columns()])
    }
}

/// A product of thin matrices: `left [o, r] · right [r, i]`.
///
/// With a core `[p, q, k…]` it is `left [o, p] · core · right [q, i]`, summed over p and q, as a matrix `[o, i·k]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Product {
    left: Stored,
    right: Stored,
    core: Option<Core>,
}

#[derive(Debug, PartialEq, Eq)]
struct Core {
    kernel: Stored,
    /// Whether `left` is stored as `[p, o]`.
    turned: bool,
}

impl Product {
    /// Finds a product's tensors, whose ranks must fit.
    pub(super) fn of(shapes: &Shapes, module: &str, family: Family, names: &FactorNames) -> Result<Self> {
        let (left, right) = match (&names.left, &names.right) {
            (Some(left), Some(right)) => (Stored::of(shapes, left)?, Stored::of(shapes, right)?),
            (Some(one), None) | (None, Some(one)) => {
                return Err(shapes.error(one, "expected the other factor of this product beside it"));
            }
            (None, None) => {
                let kind = family.name();
                return Err(shapes.error(module, format!("expected both factors of a {kind}")));
            }
        };
        let Some(core) = &names.core else {
            if left.columns() != right.rows() {
                let (columns, rows) = (left.columns(), right.rows());
                let reason = format!("expected rank {columns} as in {}, got {rows}", left.name);
                return Err(shapes.error(&right.name, reason));
            }
            return Ok(Self { left, right, core: None });
        };
        let core = Core { kernel: Stored::of(shapes, core)?, turned: family != Family::Lora };
        let (p, q) = (if core.turned { left.rows() } else { left.columns() }, right.rows());
        if core.kernel.shape[..2] != [p, q] {
            let reason =
                format!("expected shape [{p}, {q}, …] between two factors, got {:?}", core.kernel.shape);
            return Err(shapes.error(&core.kernel.name, reason));
        }
        Ok(Self { left, right, core: Some(core) })
    }

    /// The rank.
    pub(super) fn rank(&self) -> usize {
        self.right.rows()
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> [usize; 2] {
        let kernel = self.core.as_ref().map_or(1, |core| core.kernel.shape[2..].iter().product());
        let rows = if self.is_turned() { self.left.columns() } else { self.left.rows() };
        [rows, self.right.columns() * kernel]
    }

    fn is_turned(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.turned)
    }

    /// Two thin matrices with this product.
    pub(super) fn thin<T: Tensor>(&self, reader: &Reader<'_, T>) -> Result<(T, T)> {
        let (left, right) = (reader.matrix(&self.left)?, reader.matrix(&self.right)?);
        let left = if self.is_turned() { left.permute(&[1, 0])? } else { left };
        let Some(Core { kernel: stored, .. }) = &self.core else { return Ok((left, right)) };
        let (p, q, inputs) = (stored.rows(), self.right.rows(), self.right.columns());
        let kernel = stored.columns() / q;
        let by_place = reader.matrix(stored)?.reshape(&[p, q, kernel])?.permute(&[0, 2, 1])?;
        let right = by_place.reshape(&[p * kernel, q])?.matmul(&right)?;
        let right = right.reshape(&[p, kernel, inputs])?.permute(&[0, 2, 1])?;
        Ok((left, right.reshape(&[p, inputs * kernel])?))
    }

    /// The product.
    pub(super) fn matrix<T: Tensor>(&self, reader: &Reader<'_, T>) -> Result<T> {
        let (left, right) = self.thin(reader)?;
        left.matmul(&right)
    }
}

/// A matrix that is stored whole or as a product.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Factor {
    Whole(Stored),
    Product(Product),
}

impl Factor {
    /// Finds a factor's tensors.
    pub(super) fn of(shapes: &Shapes, module: &str, family: Family, names: &FactorNames) -> Result<Self> {
        match names {
            FactorNames { whole: Some(whole), left: None, right: None, core: None } => {
                Stored::of(shapes, whole).map(Self::Whole)
            }
            FactorNames { whole: Some(whole), .. } => {
                Err(shapes.error(whole, "expected either this factor or a product, got both"))
            }
            names => Product::of(shapes, module, family, names).map(Self::Product),
        }
    }

    /// The rank, if it is a product.
    pub(super) fn rank(&self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Product(product) => Some(product.rank()),
        }
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> [usize; 2] {
        match self {
            Self::Whole(whole) => [whole.rows(), whole.columns()],
            Self::Product(product) => product.size(),
        }
    }

    /// The matrix.
    pub(super) fn matrix<T: Tensor>(&self, reader: &Reader<'_, T>) -> Result<T> {
        match self {
            Self::Whole(whole) => reader.matrix(whole),
            Self::Product(product) => product.matrix(reader),
        }
    }
}
