//! The operands of a product: numbers in memory, matrices, and the place of the result.

/// Numbers in memory: f32, or bf16 as bits.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bf16, the upper half of an f32.
    Bf16(&'a [u16]),
}

impl<'a> Numbers<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `len` elements from `at` on.
    #[inline]
    pub(crate) fn part(&self, at: usize, len: usize) -> Self {
        match *self {
            Self::F32(numbers) => Self::F32(&numbers[at..][..len]),
            Self::Bf16(numbers) => Self::Bf16(&numbers[at..][..len]),
        }
    }
}

/// Numbers to write: f32, or bf16 as bits.
#[derive(Debug)]
pub enum NumbersMut<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// bf16, the upper half of an f32.
    Bf16(&'a mut [u16]),
}

impl NumbersMut<'_> {
    /// The number of elements.
    fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
        }
    }

    /// The `len` elements from `at` on.
    pub(crate) fn part(&mut self, at: usize, len: usize) -> NumbersMut<'_> {
        match self {
            Self::F32(numbers) => NumbersMut::F32(&mut numbers[at..][..len]),
            Self::Bf16(numbers) => NumbersMut::Bf16(&mut numbers[at..][..len]),
        }
    }
}

/// Rows of contiguous elements: `[rows, depth]`.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub(crate) numbers: Numbers<'a>,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) stride: usize,
}

impl<'a> Matrix<'a> {
    /// `None` if a row is empty or if the numbers end before the last row. Rows begin `stride` elements apart.
    pub fn new(numbers: Numbers<'a>, rows: usize, depth: usize, stride: usize) -> Option<Self> {
        let end = rows.checked_sub(1)?.checked_mul(stride)?.checked_add(depth)?;
        (depth > 0 && end <= numbers.len()).then_some(Self { numbers, rows, depth, stride })
    }

    /// Elements `from .. from + len` of a row.
    #[inline]
    pub(crate) fn part(&self, row: usize, from: usize, len: usize) -> Numbers<'a> {
        self.numbers.part(row * self.stride + from, len)
    }
}

/// Numbers that are added to the result.
#[derive(Debug, Clone, Copy)]
pub enum Bias<'a> {
    /// None.
    None,
    /// One for each column of the result: the outputs of a linear layer.
    Columns(Numbers<'a>),
    /// One for each row of the result: the output channels of a convolution.
    Rows(Numbers<'a>),
}

/// The place of a result `[rows, columns]`.
#[derive(Debug)]
pub struct Destination<'a> {
    pub(crate) numbers: NumbersMut<'a>,
    pub(crate) stride: usize,
    pub(crate) bias: Bias<'a>,
}

impl<'a> Destination<'a> {
    /// Rows that begin `stride` elements apart.
    pub fn new(numbers: NumbersMut<'a>, stride: usize, bias: Bias<'a>) -> Self {
        Self { numbers, stride, bias }
    }

    /// Whether a result of this size fits, with a bias for each of `biases` columns. Its rows may not overlap.
    pub(crate) fn takes(&self, rows: usize, columns: usize, biases: usize) -> bool {
        let bias = match self.bias {
            Bias::None => true,
            Bias::Columns(numbers) => numbers.len() == biases,
            Bias::Rows(numbers) => numbers.len() == rows,
        };
        bias && columns <= self.stride && (rows - 1) * self.stride + columns <= self.numbers.len()
    }
}

/// The sizes of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Input channels, height, width.
    pub input: (usize, usize, usize),
    /// Output channels, height, width.
    pub output: (usize, usize, usize),
    /// Kernel height and width.
    pub kernel: (usize, usize),
    /// Step between output pixels.
    pub stride: usize,
    /// Zeros above and to the left. What the output reads beyond the image on the other sides is zero, too.
    pub before: usize,
}
