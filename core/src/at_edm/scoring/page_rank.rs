//! Generalized Weighted Page Rank (G-WPR), Algorithm 1 of the paper.
//!
//! For every batch row and head, with `A` the attention map of M queries and N keys:
//!
//! ```text
//! s⁰  = 1/M                                                        (M image tokens)
//! s_K = Aᵀ sᵗ                                                      each query votes for keys
//! s_Q = s_K                                                        self-attention (M = N)
//! s_Q = Σ_j A_ij s_K,j  /  −Σ_j A_ij ln A_ij                       cross-attention, Eq. 1
//! sᵗ⁺¹ = s_Q / |s_Q|
//! until |sᵗ⁺¹ − sᵗ| ≤ ε;  then s = RMS over heads                  section 3.2
//! ```
//!
//! Departures from the paper, and choices that it leaves open:
//! 1. At most `max_iterations` votes are cast. The paper names neither ε nor a cap.
//! 2. `|·|` in the division is the L1 norm by default, which keeps the sum of scores at one. Under L2 all heads would have
//!    the same weight, and the RMS could not reward a head that singles tokens out. The stopping rule always uses L1.
//! 3. Convergence is judged per row and head. A head at rest keeps its scores while the others go on. An image's
//!    scores therefore never depend on the rest of its batch.
//! 4. With ε = 0 exactly `max_iterations` votes are cast, and the host reads nothing back from the device.
//! 5. In Eq. 1, 0·ln 0 = 0, and the entropy is clamped from below. Otherwise a row with one certain key would divide by zero.
//! 6. Damping d is optional, from the authors' earlier work on page rank: `s_K ← (1 − d) Aᵀ s + d/N`.
//! 7. If the attention's forward pass has already cast the first vote from `s⁰`, that vote is used.
//! 8. The cap may differ by resolution level ([`PageRank::with_level_iterations`]). `s⁰` may be the scores of the
//!    previous evaluation ([`WarmPageRank`](super::WarmPageRank)).

use std::collections::BTreeMap;

use super::{FirstVoteQuery, ScoreInput, ScoreNeeds, Scores, TokenScorer, heads};
use crate::at_edm::options::{CrossVote, Heads, Norm, ScoreSource};
use crate::backend::{AttentionGraph, AttentionOps};
use crate::plugin::check_ratio;
use crate::{Error, Result, Tensor};

/// Entropies are clamped to at least this value, in nats.
const LEAST_ENTROPY: f64 = 1e-12;
/// Norms are clamped to at least this value. The scores of a head without any attention then stay zero.
const LEAST_NORM: f64 = 1e-30;

/// How [`PageRank`] votes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PageRankOptions {
    /// The attention that casts the votes.
    pub source: ScoreSource,
    /// The maximum number of votes.
    pub max_iterations: usize,
    /// A head rests when its L1 change falls to this value. With 0 no change is computed.
    pub epsilon: f64,
    /// The divisor of each vote.
    pub norm: Norm,
    /// How to combine heads.
    pub heads: Heads,
    /// The fraction of each vote that is spread evenly.
    pub damping: f64,
    /// How scores of text tokens become scores of image tokens.
    pub cross_vote: CrossVote,
}

impl Default for PageRankOptions {
    fn default() -> Self {
        Self {
            source: ScoreSource::default(),
            max_iterations: 5,
            epsilon: 1e-4,
            norm: Norm::default(),
            heads: Heads::default(),
            damping: 0.0,
            cross_vote: CrossVote::default(),
        }
    }
}

/// The start of G-WPR.
#[derive(Debug)]
pub struct Start<'a, T> {
    /// The starting scores `[b, h, m]`. `None` means 1/M each.
    pub scores: Option<&'a T>,
    /// The first vote `[b, h, n]`, if it was already cast. It must come from `scores`.
    pub first_vote: Option<&'a T>,
}

impl<'a, T> Start<'a, T> {
    /// Starts from equal scores.
    pub fn equal() -> Self {
        Self { scores: None, first_vote: None }
    }

    /// Starts from these scores `[b, h, m]`.
    pub fn from_scores(scores: &'a T) -> Self {
        Self { scores: Some(scores), first_vote: None }
    }
}

/// Checks that every level may vote at least once.
pub(in crate::at_edm) fn check_level_iterations(caps: &BTreeMap<usize, usize>) -> Result<()> {
    match caps.iter().find(|&(_, &cap)| cap == 0) {
        Some((level, _)) => {
            Err(Error::config(format!("level_iterations.{level}"), "expected at least 1, got 0"))
        }
        None => Ok(()),
    }
}

/// The G-WPR scorer.
#[derive(Debug, Clone)]
pub struct PageRank {
    options: PageRankOptions,
    /// The maximum number of votes at a level, in place of `max_iterations`.
    level_iterations: BTreeMap<usize, usize>,
}

impl PageRank {
    /// G-WPR with these options.
    ///
    /// # Errors
    /// [`Error::Config`] names the option that is out of range.
    pub fn new(options: PageRankOptions) -> Result<Self> {
        if options.max_iterations == 0 {
            return Err(Error::config("max_iterations", "expected at least 1, got 0"));
        }
        if !(options.epsilon >= 0.0 && options.epsilon.is_finite()) {
            let reason = format!("expected a finite number, at least 0, got {}", options.epsilon);
            return Err(Error::config("epsilon", reason));
        }
        check_ratio("damping", options.damping)?;
        Ok(Self { options, level_iterations: BTreeMap::new() })
    }

    /// The same scorer with other caps at some resolution levels. `caps` maps a level to its maximum number of votes.
    ///
    /// # Errors
    /// [`Error::Config`] names the level whose cap is 0.
    pub fn with_level_iterations(mut self, caps: BTreeMap<usize, usize>) -> Result<Self> {
        check_level_iterations(&caps)?;
        self.level_iterations = caps;
        Ok(self)
    }

    /// G-WPR with the cap of `level`.
    pub(super) fn at_level(&self, level: usize) -> Self {
        self.capped(self.level_iterations.get(&level).copied().unwrap_or(self.options.max_iterations))
    }

    /// The same scorer with at most `max_iterations` votes at all levels.
    pub(super) fn capped(&self, max_iterations: usize) -> Self {
        let options = PageRankOptions { max_iterations, ..self.options };
        Self { options, level_iterations: BTreeMap::new() }
    }

    /// Casts only one vote. The score is the mean attention that each token receives.
    pub fn column_mean(options: PageRankOptions) -> Self {
        let options = PageRankOptions { max_iterations: 1, epsilon: 0.0, damping: 0.0, ..options };
        Self { options, level_iterations: BTreeMap::new() }
    }

    /// The scores of every head `[b, h, m]`, and the number of votes cast.
    ///
    /// # Errors
    /// [`Error::Shape`] when the map of self-attention is not square, or when the starting scores or the first vote
    /// have the wrong shape.
    pub fn per_head<T: AttentionOps>(
        &self,
        graph: &AttentionGraph<T>,
        Start { scores: start, first_vote }: Start<'_, T>,
    ) -> Result<(T, usize)> {
        let [batch, head_count, m, n] = graph.dims()?;
        if self.options.source == ScoreSource::SelfAttention && m != n {
            return Err(Error::shape("G-WPR on self-attention", "a square map", [batch, head_count, m, n]));
        }
        if let Some(start) = start
            && start.shape() != [batch, head_count, m]
        {
            return Err(Error::shape(
                "G-WPR",
                format!("starting scores [{batch}, {head_count}, {m}]"),
                start.shape(),
            ));
        }
        if let Some(vote) = first_vote
            && vote.shape() != [batch, head_count, n]
        {
            return Err(Error::shape(
                "G-WPR",
                format!("a first vote [{batch}, {head_count}, {n}]"),
                vote.shape(),
            ));
        }
        let mut first_vote = first_vote.cloned();
        let mut scores = match start {
            Some(start) => start.clone(),
            None => T::full(1.0 / m as f64, &[batch, head_count, m], graph.score_dtype(), &graph.device())?,
        };
        let mut to_queries = KeysToQueries::new(self.options, n);
        let mut resting = vec![false; batch * head_count];
        let mut votes = 0;
        while votes < self.options.max_iterations {
            let vote = match first_vote.take() {
                Some(vote) => vote,
                None => graph.votes(&scores)?,
            };
            votes += 1;
            let next = self.normalised(to_queries.scores(graph, vote)?)?;
            if self.options.epsilon == 0.0 {
                scores = next;
                continue;
            }
            let change = l1_change(&next, &scores)?.to_f32()?;
            scores = keep_resting(scores, next, &resting)?;
            for (rests, change) in resting.iter_mut().zip(change) {
                *rests |= f64::from(change) <= self.options.epsilon;
            }
            if resting.iter().all(|&rests| rests) {
                break;
            }
        }
        Ok((scores, votes))
    }

    /// Combines one score per head, `[b, h, tokens]`, into one per token, `[b, tokens]`.
    pub(super) fn combine<T: Tensor>(&self, scores: &T) -> Result<T> {
        heads::combine(scores, self.options.heads)
    }

    /// `s / |s|` over the tokens of each head. Scores are never negative.
    fn normalised<T: Tensor>(&self, scores: T) -> Result<T> {
        let norm = match self.options.norm {
            Norm::L1 => scores.sum(2)?,
            Norm::L2 => scores.mul(&scores)?.sum(2)?.sqrt()?,
        };
        scores.div(&norm.clamp_min(LEAST_NORM)?)
    }
}

/// Maps the keys' scores to the queries' scores: the function f of Algorithm 1. It computes constant parts only once.
struct KeysToQueries<T: Tensor> {
    options: PageRankOptions,
    keys: usize,
    entropy: Option<T>,
    strongest_key: Option<T::Indices>,
}

impl<T: AttentionOps> KeysToQueries<T> {
    fn new(options: PageRankOptions, keys: usize) -> Self {
        Self { options, keys, entropy: None, strongest_key: None }
    }

    /// Maps `[b, h, n]` to `[b, h, m]`, before normalisation.
    fn scores(&mut self, graph: &AttentionGraph<T>, vote: T) -> Result<T> {
        let damping = self.options.damping;
        let vote = if damping > 0.0 { vote.affine(1.0 - damping, damping / self.keys as f64)? } else { vote };
        if self.options.source == ScoreSource::SelfAttention {
            return Ok(vote);
        }
        match self.options.cross_vote {
            CrossVote::Plain => graph.read(&vote),
            CrossVote::Entropy => {
                let entropy = match self.entropy.take() {
                    Some(entropy) => entropy,
                    None => graph.row_entropy()?.clamp_min(LEAST_ENTROPY)?,
                };
                let queries = graph.read(&vote)?.div(&entropy)?;
                self.entropy = Some(entropy);
                Ok(queries)
            }
            CrossVote::Hard => self.hard(graph, &vote),
        }
    }

    /// Each query takes the score of the key that it attends to most.
    fn hard(&mut self, graph: &AttentionGraph<T>, vote: &T) -> Result<T> {
        let [batch, head_count, m, n] = graph.dims()?;
        let strongest = match self.strongest_key.take() {
            Some(strongest) => strongest,
            None => {
                let columns =
                    graph.to_dense()?.permute(&[0, 1, 3, 2])?.reshape(&[batch * head_count, n, m])?;
                columns.argmax_rows()?
            }
        };
        let queries = vote.reshape(&[batch * head_count, n])?.gather(1, &strongest)?;
        self.strongest_key = Some(strongest);
        queries.reshape(&[batch, head_count, m])
    }
}

/// `Σ |next − scores|` per head, `[b, h, 1]`.
fn l1_change<T: Tensor>(next: &T, scores: &T) -> Result<T> {
    let change = next.sub(scores)?;
    change.clamp_min(0.0)?.add(&change.affine(-1.0, 0.0)?.clamp_min(0.0)?)?.sum(2)
}

/// Returns `next`, but `scores` for heads at rest. Both are copied exactly.
fn keep_resting<T: Tensor>(scores: T, next: T, resting: &[bool]) -> Result<T> {
    if !resting.contains(&true) {
        return Ok(next);
    }
    let shape = scores.shape();
    let going: Vec<f32> = resting.iter().map(|&rests| if rests { 0.0 } else { 1.0 }).collect();
    let going = T::from_f32(&going, &[shape[0], shape[1], 1], scores.dtype(), &scores.device())?;
    next.mul(&going)?.add(&scores.mul(&going.affine(-1.0, 1.0)?)?)
}

impl<T: AttentionOps> TokenScorer<T> for PageRank {
    fn needs(&self) -> ScoreNeeds {
        ScoreNeeds { graph: Some(self.options.source), values: false }
    }

    fn first_vote_scores(&self, query: &FirstVoteQuery<'_, T>) -> Result<Option<T>> {
        if self.options.source != ScoreSource::SelfAttention {
            return Ok(None);
        }
        T::full(1.0 / query.shape[2] as f64, &query.shape, query.dtype, &query.device).map(Some)
    }

    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
        let (scores, votes) = self
            .at_level(input.site.block.level)
            .per_head(input.graph()?, Start { scores: None, first_vote: input.first_vote })?;
        Ok(Scores { tokens: self.combine(&scores)?, votes })
    }
}
