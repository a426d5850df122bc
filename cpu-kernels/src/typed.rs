//! The operands of a pass once their element type is known.

use std::f64::consts::LOG2_E;

use crate::element::Element;
use crate::{Heads, Pass};

/// [`Heads`] of this element type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Typed<'a, E> {
    data: &'a [E],
    dims: [usize; 4],
    strides: [usize; 3],
}

impl<'a, E: Element> Typed<'a, E> {
    /// Panics if the heads have the other type. Only a bug in the caller can cause this.
    pub(crate) fn new(heads: Heads<'a>) -> Self {
        let (numbers, strides) = heads.parts();
        let data = E::slice(numbers);
        assert!(!data.is_empty(), "queries, keys and values of one type");
        Self { data, dims: heads.dims(), strides }
    }

    /// Batch, heads, rows, dim.
    pub(crate) fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// One row: `dim` elements.
    #[inline]
    pub(crate) fn row(&self, batch: usize, head: usize, row: usize) -> &'a [E] {
        let [by_batch, by_head, by_row] = self.strides;
        &self.data[batch * by_batch + head * by_head + row * by_row..][..self.dims[3]]
    }
}

/// [`Pass`] of this element type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TypedPass<'a, E> {
    pub(crate) q: Typed<'a, E>,
    pub(crate) k: Typed<'a, E>,
    pub(crate) scale: f32,
    pub(crate) scores: Option<&'a [f32]>,
}

impl<'a, E: Element> TypedPass<'a, E> {
    /// Panics if queries and keys do not fit each other. Only a bug in the caller can cause this.
    pub(crate) fn new(pass: Pass<'a>) -> Self {
        let Pass { q, k, scale, scores } = pass;
        let ([batch, heads, m, dim], [other_batch, other_heads, _, other_dim]) = (q.dims(), k.dims());
        assert!(
            (batch, heads, dim) == (other_batch, other_heads, other_dim),
            "queries and keys of other heads"
        );
        assert!(scores.is_none_or(|scores| scores.len() == batch * heads * m), "a score for every query");
        Self { q: Typed::new(q), k: Typed::new(k), scale, scores }
    }

    /// The factor on `q·k` in an exponent of 2.
    pub(crate) fn factor(&self) -> f32 {
        (f64::from(self.scale) * LOG2_E) as f32
    }

    /// Batch, heads, queries, keys.
    pub(crate) fn sizes(&self) -> [usize; 4] {
        let [batch, heads, m, _] = self.q.dims;
        [batch, heads, m, self.k.dims[2]]
    }
}

/// What a row's log-sum-exp adds to an exponent of 2.
pub(crate) fn shift(lse: f32) -> f32 {
    (-f64::from(lse) * LOG2_E) as f32
}
