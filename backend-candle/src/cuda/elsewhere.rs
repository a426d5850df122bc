//! The signatures of the kernels in a build without the feature `cuda`. There are none, so no method can be called.

use candle_core::{Result, Tensor as Raw};

use crate::outcome::Outcome;

/// The kernels; see the version for CUDA.
pub(crate) enum Kernels {}

/// No kernels.
pub(crate) fn kernels(_operands: &[&Raw]) -> Result<Option<Kernels>> {
    Ok(None)
}

impl Kernels {
    /// Attention; see the version for CUDA.
    pub(crate) fn attend(&self, _operands: [&Raw; 3], _scale: f64, _scores: Option<&Raw>) -> Result<Outcome> {
        match *self {}
    }

    /// A vote; see the version for CUDA.
    pub(crate) fn vote(&self, _operands: [&Raw; 2], _lse: &Raw, _scale: f64, _scores: &Raw) -> Result<Raw> {
        match *self {}
    }

    /// The strongest rows; see the version for CUDA.
    pub(crate) fn search(
        &self,
        _operands: [&Raw; 2],
        _lse: &Raw,
        _scale: f64,
        _lists: [&Raw; 2],
    ) -> Result<Option<Raw>> {
        match *self {}
    }
}
