//! The backend, device and precision.

use atedm_core::DType;
use atedm_experiment::platform::{Platform, cores};
use clap::{Args, ValueEnum};

use super::{Device, parse};

/// The backend, device and precision.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// Tensor library
    #[arg(long, value_name = "NAME", default_value = DEFAULT_BACKEND)]
    pub(crate) backend: BackendKind,
    /// Device: cpu, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    /// Element type of weights and activations (f64: CPU only)
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub(crate) dtype: DTypeKind,
    /// CPU threads, at most four per core [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
    /// Guarantee the same bits for the same command on the same machine; refuses devices that cannot
    #[arg(long)]
    pub(crate) deterministic: bool,
}

impl EngineArgs {
    /// The platform that these flags select.
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            backend: self.backend.name().to_string(),
            device: self.device.to_string(),
            dtype: self.dtype.into(),
            threads: self.threads.unwrap_or_else(cores),
        }
    }
}

/// A backend by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendKind {
    /// Candle (CPU, CUDA, Metal)
    Candle,
    /// libtorch (CPU, CUDA)
    Tch,
    /// The plain reference in Rust: slow, exact
    Ndarray,
}

impl BackendKind {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::Tch => "tch",
            Self::Ndarray => "ndarray",
        }
    }
}

/// An element type by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DTypeKind {
    /// 32-bit float
    F32,
    /// 16-bit float
    F16,
    /// 16-bit brain float
    Bf16,
    /// 64-bit float
    F64,
}

impl From<DTypeKind> for DType {
    fn from(kind: DTypeKind) -> Self {
        match kind {
            DTypeKind::F32 => Self::F32,
            DTypeKind::F16 => Self::F16,
            DTypeKind::Bf16 => Self::BF16,
            DTypeKind::F64 => Self::F64,
        }
    }
}

#[cfg(feature = "candle")]
const DEFAULT_BACKEND: &str = "candle";
#[cfg(all(not(feature = "candle"), feature = "tch"))]
const DEFAULT_BACKEND: &str = "tch";
#[cfg(not(any(feature = "candle", feature = "tch")))]
const DEFAULT_BACKEND: &str = "ndarray";
