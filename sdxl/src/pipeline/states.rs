//! The states of one text encoder for readings of prompts.
//!
//! ```text
//! every row of ids is encoded once: chunks, chunks with hidden tokens, rows of pooled states, the empty row
//! version = the chunks' weighted states, joined;   prompt = Σ share · version / Σ share;   then empty rows up to the same length
//! ```

use atedm_core::{Backend, DeviceOf, Error, Result, Tensor};

use super::size::expect_finite;
use crate::prompt::{Hidden, Reading, weigh};
use crate::text::{TextEncoder, TextRows};
use crate::tokenizer::ClipTokenizer;

/// The most rows that are encoded at once.
const AT_ONCE: usize = 64;

/// One text encoder with its tokenizer.
pub(super) struct Encoder<B: Backend> {
    pub(super) tokenizer: ClipTokenizer,
    pub(super) model: TextEncoder<B>,
    /// Its folder, for messages.
    pub(super) name: &'static str,
}

/// The states of several prompts.
pub(super) struct States<T> {
    /// `[prompts, length, channels]`.
    pub(super) tokens: T,
    /// `[prompts, channels]`, if the encoder has a projection.
    pub(super) pooled: Option<T>,
}

/// How far the encoder's states go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Chunks of every prompt. Shorter prompts get empty chunks.
    pub(super) chunks: usize,
    pub(super) clip_skip: usize,
}

impl<B: Backend> Encoder<B> {
    /// The states of `readings`.
    pub(super) fn states(
        &self,
        readings: &[Reading],
        extent: Extent,
        device: &DeviceOf<B>,
    ) -> Result<States<B::Tensor>> {
        let rows = Rows::of(readings, self.tokenizer.row(&[]).0, extent.chunks);
        let encoded = self.encode(rows, extent.clip_skip, device)?;
        let mut tokens = Vec::with_capacity(readings.len());
        let mut pooled = Vec::with_capacity(readings.len());
        for reading in readings {
            let mut parts = vec![self.prompt(reading, &encoded)?];
            for _ in reading.chunks.len()..extent.chunks {
                parts.push(encoded.empty()?);
            }
            tokens.push(joined(&parts, 1)?);
            let first = || reading.chunks.first().map(|chunk| &chunk.ids);
            pooled.extend(reading.pooled.as_ref().or_else(first).and_then(|ids| encoded.pooled(ids)));
        }
        let pooled = (!pooled.is_empty()).then(|| joined(&pooled, 0)).transpose()?;
        Ok(States { tokens: joined(&tokens, 0)?, pooled })
    }

    /// The states `[1, length, channels]` of one prompt.
    fn prompt(&self, reading: &Reading, encoded: &Encoded<B::Tensor>) -> Result<B::Tensor> {
        if !reading.is_weighted() {
            let rows = reading.chunks.iter().map(|chunk| encoded.find(&chunk.ids, &[]));
            return joined(&rows.collect::<Result<Vec<_>>>()?, 1);
        }
        let empty = encoded.empty()?;
        let version = |hidden: Option<&Hidden>| {
            let mut parts = Vec::with_capacity(reading.chunks.len());
            for (number, chunk) in reading.chunks.iter().enumerate() {
                let unseen =
                    hidden.and_then(|hidden| hidden.tokens.get(number)).map_or(&[][..], Vec::as_slice);
                parts.push(weigh(&encoded.find(&chunk.ids, unseen)?, chunk, reading.weighting, &empty)?);
            }
            joined(&parts, 1)
        };
        let whole: f64 = 1.0 + reading.hidden.iter().map(|hidden| hidden.share).sum::<f64>();
        let mut mixed = version(None)?;
        if !reading.hidden.is_empty() {
            mixed = mixed.affine(1.0 / whole, 0.0)?;
        }
        for hidden in &reading.hidden {
            mixed = mixed.add(&version(Some(hidden))?.affine(hidden.share / whole, 0.0)?)?;
        }
        let mixed = mixed.cast(empty.dtype())?;
        expect_finite(&mixed, &format!("the weighted output of {}", self.name))?;
        Ok(mixed)
    }

    fn encode(&self, rows: Rows, clip_skip: usize, device: &DeviceOf<B>) -> Result<Encoded<B::Tensor>> {
        let mut encoded = Encoded { rows: Vec::new(), empty: rows.empty };
        let (masked, plain): (Vec<Row>, Vec<Row>) = rows.rows.into_iter().partition(Row::is_masked);
        for rows in plain.chunks(AT_ONCE).chain(masked.chunks(AT_ONCE)) {
            let ids: Vec<Vec<u32>> = rows.iter().map(|row| row.ids.clone()).collect();
            let hidden: Vec<Vec<bool>> =
                rows.iter().filter(|row| row.is_masked()).map(|row| row.hidden.clone()).collect();
            let input = TextRows { hidden: &hidden, clip_skip, ..TextRows::new(&ids) };
            let output = self.model.encode_rows(&input, device)?;
            expect_finite(&output.hidden, &format!("the output of {}", self.name))?;
            if let Some(pooled) = &output.pooled {
                expect_finite(pooled, &format!("the pooled output of {}", self.name))?;
            }
            for (number, row) in rows.iter().enumerate() {
                let one = |tensor: &B::Tensor| tensor.narrow(0, number, 1);
                let pooled = output.pooled.as_ref().map(one).transpose()?;
                encoded.rows.push((row.clone(), one(&output.hidden)?, pooled));
            }
        }
        Ok(encoded)
    }
}

/// A row of ids to encode.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    ids: Vec<u32>,
    /// Empty if nothing is hidden.
    hidden: Vec<bool>,
}

impl Row {
    fn new(ids: &[u32], hidden: &[bool]) -> Self {
        let hides = hidden.contains(&true);
        Self { ids: ids.to_vec(), hidden: if hides { hidden.to_vec() } else { Vec::new() } }
    }

    fn is_masked(&self) -> bool {
        !self.hidden.is_empty()
    }
}

/// The different rows that readings need.
struct Rows {
    rows: Vec<Row>,
    empty: Vec<u32>,
}

impl Rows {
    fn of(readings: &[Reading], empty: Vec<u32>, chunks: usize) -> Self {
        let mut all = Self { rows: Vec::new(), empty };
        for reading in readings {
            if reading.is_weighted() || reading.chunks.len() < chunks {
                let empty = all.empty.clone();
                all.add(&empty, &[]);
            }
            reading.chunks.iter().for_each(|chunk| all.add(&chunk.ids, &[]));
            reading.pooled.iter().for_each(|ids| all.add(ids, &[]));
            for version in &reading.hidden {
                let rows = reading.chunks.iter().zip(&version.tokens);
                rows.for_each(|(chunk, hidden)| all.add(&chunk.ids, hidden));
            }
        }
        all
    }

    /// Adds a row unless it is there.
    fn add(&mut self, ids: &[u32], hidden: &[bool]) {
        let row = Row::new(ids, hidden);
        if !self.rows.contains(&row) {
            self.rows.push(row);
        }
    }
}

/// Rows with their states and pooled states.
struct Encoded<T> {
    rows: Vec<(Row, T, Option<T>)>,
    empty: Vec<u32>,
}

impl<T: Tensor> Encoded<T> {
    /// The states of a row.
    fn find(&self, ids: &[u32], hidden: &[bool]) -> Result<T> {
        let asked = Row::new(ids, hidden);
        let found = self.rows.iter().find(|(row, ..)| *row == asked);
        let states = found.map(|(_, states, _)| states.clone());
        states.ok_or_else(|| Error::config("prompt_syntax", "expected every row of a reading to be encoded"))
    }

    fn empty(&self) -> Result<T> {
        self.find(&self.empty, &[])
    }

    fn pooled(&self, ids: &[u32]) -> Option<T> {
        let found = self.rows.iter().find(|(row, ..)| row.ids == ids && !row.is_masked());
        found.and_then(|(.., pooled)| pooled.clone())
    }
}

/// The parts in sequence along `axis`; a single part as it is.
fn joined<T: Tensor>(parts: &[T], axis: usize) -> Result<T> {
    match parts {
        [one] => Ok(one.clone()),
        parts => T::concat(&parts.iter().collect::<Vec<_>>(), axis),
    }
}
