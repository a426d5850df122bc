//! Arrays of f64 on the host, their conversion to and from a backend, and seeded draws.

use atedm_core::{DType, Result, Tensor};
use half::{bf16, f16};

/// A row-major array of f64 on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The length of every axis.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: Vec<f64>,
}

impl Array {
    /// An array with these elements.
    ///
    /// # Panics
    /// If their number does not match the shape.
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of {shape:?}");
        Self { shape: shape.to_vec(), data }
    }

    /// An array whose elements are functions of their multi-index.
    pub fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Self {
        let mut index = vec![0; shape.len()];
        let mut data = Vec::with_capacity(shape.iter().product());
        for _ in 0..shape.iter().product() {
            data.push(f(&index));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Self::new(shape, data)
    }

    /// An array of equal elements.
    pub fn full(shape: &[usize], value: f64) -> Self {
        Self::from_fn(shape, |_| value)
    }

    /// The element at a multi-index. An axis of length 1 accepts any index (it broadcasts).
    pub fn at(&self, index: &[usize]) -> f64 {
        let flat = self.shape.iter().zip(index).fold(0, |flat, (&len, &i)| {
            let i = if len == 1 { 0 } else { i };
            assert!(i < len, "index {index:?} of {:?}", self.shape);
            flat * len + i
        });
        self.data[flat]
    }

    /// Applies `f` to every element.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), data: self.data.iter().map(|&x| f(x)).collect() }
    }

    /// The same elements with another shape.
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        Self::new(shape, self.data.clone())
    }

    /// Rounds every element to the nearest value of `dtype`, as a tensor of that dtype stores it.
    pub fn rounded(&self, dtype: DType) -> Self {
        self.map(|x| round_to(x, dtype))
    }

    /// The elements as little-endian bytes of `dtype`.
    pub fn bytes(&self, dtype: DType) -> Vec<u8> {
        let element = |&x: &f64| match dtype {
            DType::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
            DType::BF16 => bf16::from_f64(x).to_le_bytes().to_vec(),
            DType::F32 => (x as f32).to_le_bytes().to_vec(),
            DType::F64 => x.to_le_bytes().to_vec(),
        };
        self.data.iter().flat_map(element).collect()
    }

    /// Uploads the array to a device in `dtype` (rounded).
    pub fn upload<T: Tensor>(&self, dtype: DType, device: &T::Device) -> Result<T> {
        T::from_bytes(&self.bytes(dtype), dtype, &self.shape, device)
    }

    /// Reads a tensor's elements.
    pub fn read<T: Tensor>(tensor: &T) -> Result<Self> {
        let bytes = tensor.to_bytes()?;
        let dtype = tensor.dtype();
        let element = |b: &[u8]| match dtype {
            DType::F16 => f16::from_le_bytes([b[0], b[1]]).to_f64(),
            DType::BF16 => bf16::from_le_bytes([b[0], b[1]]).to_f64(),
            DType::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            DType::F64 => f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        };
        let data = bytes.chunks_exact(dtype.size_in_bytes()).map(element).collect();
        Ok(Self::new(&tensor.shape(), data))
    }
}

/// The value of `dtype` nearest to `x` (ties to even), as f64.
pub fn round_to(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f16::from_f64(x).to_f64(),
        DType::BF16 => bf16::from_f64(x).to_f64(),
        DType::F32 => f64::from(x as f32),
        DType::F64 => x,
    }
}

/// Seeded draws (SplitMix64): the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Draws(u64);

impl Draws {
    /// Draws from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A uniform number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A uniform number in `0..below`.
    pub fn below(&mut self, below: usize) -> usize {
        (self.unit() * below as f64) as usize
    }

    /// A standard normal number (Box–Muller, the cosine half).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// An array of standard normals.
    pub fn normals(&mut self, shape: &[usize]) -> Array {
        Array::from_fn(shape, |_| self.normal())
    }

    /// An array of uniforms in `[low, high)`.
    pub fn uniforms(&mut self, shape: &[usize], low: f64, high: f64) -> Array {
        Array::from_fn(shape, |_| low + (high - low) * self.unit())
    }

    /// The numbers `0..n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// `count` distinct indices of `0..n`, ascending.
    pub fn subset(&mut self, count: usize, n: usize) -> Vec<u32> {
        let mut some = self.permutation(n);
        some.truncate(count);
        some.sort_unstable();
        some
    }
}
