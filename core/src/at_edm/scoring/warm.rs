//! G-WPR that continues from the scores of the previous evaluation (`warm_start`).
//!
//! ```text
//! s⁰ at evaluation e  =  the scores of evaluation e − 1 of the same block, layer and batch row
//! ```
//!
//! Maps change little from one denoising step to the next. One or two votes at each step therefore converge over
//! the steps. A row without earlier scores starts from equal scores, as in Algorithm 1. Scores are remembered by
//! place in the stream that entered the block. An earlier pruning layer may now keep other tokens. A token with an
//! earlier score then starts from it, and every other token starts from the mean of its head.

use super::{FirstVoteQuery, PageRank, ScoreInput, ScoreNeeds, Scores, Start, TokenScorer};
use crate::at_edm::memory::RowMemory;
use crate::backend::{AttentionOps, dims};
use crate::plugin::{Run, Site};
use crate::{Error, Result, Tensor};

/// [`PageRank`] with a warm start. It forgets its scores when a run begins.
#[derive(Debug, Clone)]
pub struct WarmPageRank<T: Tensor> {
    rank: PageRank,
    /// The maximum number of votes where no row has earlier scores.
    cold_iterations: Option<usize>,
    /// The scores `[b, h, entry tokens]`.
    memory: RowMemory<T>,
}

/// Checks that a first evaluation may vote at least once.
pub(in crate::at_edm) fn check_cold_iterations(cap: Option<usize>) -> Result<()> {
    match cap {
        Some(0) => Err(Error::config("cold_iterations", "expected at least 1, got 0")),
        _ => Ok(()),
    }
}

/// The tokens to score, as places in the stream that entered the block.
struct Stream<'a, T: Tensor> {
    site: &'a Site<'a>,
    entry_tokens: usize,
    positions: Option<&'a T::Indices>,
}

impl<T: AttentionOps> WarmPageRank<T> {
    /// Wraps `rank`, which then always starts from the scores of the previous evaluation.
    pub fn new(rank: PageRank) -> Self {
        Self { rank, cold_iterations: None, memory: RowMemory::default() }
    }

    /// The same scorer with another cap where no row has earlier scores, that is, at a site's first evaluation.
    ///
    /// # Errors
    /// [`Error::Config`] for a cap of 0.
    pub fn with_cold_iterations(mut self, cap: usize) -> Result<Self> {
        check_cold_iterations(Some(cap))?;
        self.cold_iterations = Some(cap);
        Ok(self)
    }

    /// The scores to start from, of `shape = [b, h, tokens]`. `None` where no row was scored before.
    ///
    /// If some rows have earlier scores, a new row starts from equal scores. So does a row with another number of
    /// heads or tokens.
    fn start(&self, stream: &Stream<'_, T>, shape: [usize; 3]) -> Result<Option<T>> {
        let [batch, head_count, tokens] = shape;
        let site = stream.site;
        if site.rows.len() != batch {
            let reason =
                format!("warm_start expects {batch} batch rows to be described, got {}", site.rows.len());
            return Err(Error::Plugin { name: "page-rank".into(), reason });
        }
        let fits = |scores: &&T| scores.shape()[1..] == [head_count, stream.entry_tokens];
        let on_entry = match self.memory.batch(site).filter(fits) {
            Some(scores) => scores.clone(),
            None => {
                let known: Vec<Option<(&T, usize)>> = site
                    .rows
                    .iter()
                    .map(|&row| self.memory.row(site, row).filter(|(scores, _)| fits(scores)))
                    .collect();
                let Some((like, _)) = known.iter().flatten().next() else { return Ok(None) };
                let equal = || {
                    let shape = [1, head_count, stream.entry_tokens];
                    T::full(1.0 / tokens as f64, &shape, like.dtype(), &like.device())
                };
                let rows: Result<Vec<T>> = known
                    .iter()
                    .map(|row| row.map_or_else(equal, |(scores, index)| scores.narrow(0, index, 1)))
                    .collect();
                T::concat(&rows?.iter().collect::<Vec<_>>(), 0)?
            }
        };
        match stream.positions {
            Some(positions) => on_entry.gather(2, positions).map(Some),
            None => Ok(Some(on_entry)),
        }
    }

    fn remember(&mut self, stream: &Stream<'_, T>, scores: &T) -> Result<()> {
        let on_entry = match stream.positions {
            None => scores.clone(),
            Some(positions) => {
                let [batch, head_count, _] = dims(scores, "warm start")?;
                let (dtype, device) = (scores.dtype(), scores.device());
                let ones = T::full(1.0, &[batch, stream.entry_tokens, head_count], dtype, &device)?;
                let by_token = scores.permute(&[0, 2, 1])?;
                let base = ones.mul(&by_token.mean(1)?)?;
                by_token.scatter_into(&base, positions)?.permute(&[0, 2, 1])?
            }
        };
        self.memory.remember(stream.site, on_entry);
        Ok(())
    }
}

impl<T: AttentionOps> TokenScorer<T> for WarmPageRank<T> {
    fn needs(&self) -> ScoreNeeds {
        TokenScorer::<T>::needs(&self.rank)
    }

    fn begin_run(&mut self, _run: &Run<'_>) -> Result<()> {
        self.memory.clear();
        Ok(())
    }

    fn first_vote_scores(&self, query: &FirstVoteQuery<'_, T>) -> Result<Option<T>> {
        let &FirstVoteQuery { site, entry_tokens, positions, shape, .. } = query;
        match self.rank.first_vote_scores(query)? {
            None => Ok(None),
            Some(equal) => {
                Ok(Some(self.start(&Stream { site, entry_tokens, positions }, shape)?.unwrap_or(equal)))
            }
        }
    }

    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
        let &ScoreInput { site, entry_tokens, positions, .. } = input;
        let stream = Stream { site, entry_tokens, positions };
        let [batch, head_count, tokens, _] = input.graph()?.dims()?;
        let start = self.start(&stream, [batch, head_count, tokens])?;
        let rank = match (&start, self.cold_iterations) {
            (None, Some(cap)) => self.rank.capped(cap),
            _ => self.rank.at_level(site.block.level),
        };
        let start = Start { scores: start.as_ref(), first_vote: input.first_vote };
        let (scores, votes) = rank.per_head(input.graph()?, start)?;
        self.remember(&stream, &scores)?;
        Ok(Scores { tokens: self.rank.combine(&scores)?, votes })
    }
}
