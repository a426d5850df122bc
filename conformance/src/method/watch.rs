//! A reducer that is watched: every reduction it answers may be tried at once, and one event may be told wrongly.

use std::collections::BTreeSet;

use atedm_core::plugin::{
    Action, Event, NestId, NestSite, Reduction, Row, Scope, Site, Step, Sublayer, TokenReducer,
};
use atedm_core::{AttentionGraph, AttentionOps, Indices, Result, Tensor};

use super::wrong::{self, WrongTensor};
use crate::host::Array;
use crate::trace::{TokenTrace, note};

/// What one reduction did with the tensor that it was made for.
#[derive(Debug)]
pub(super) struct Fact {
    /// Block, layer and event.
    pub(super) at: String,
    /// What it is used for; `None` for one of the stream, until the exit.
    pub(super) scope: Option<Scope>,
    /// `[b, tokens, channels]`.
    pub(super) input: Array,
    pub(super) kept: usize,
    pub(super) positions: Option<Vec<Vec<u32>>>,
    pub(super) shrunk: Array,
    pub(super) restored: Array,
    /// What was restored of twice the shrunk tokens, and of the shrunk tokens as something added.
    pub(super) doubled: Array,
    pub(super) added: Array,
    /// What a copy of it shrank and restored.
    pub(super) copied: [Array; 2],
    /// For each batch row where the protected tokens stand in the input; `None` where nobody can tell.
    pub(super) protected: Option<Vec<Vec<usize>>>,
    /// Wrong tensors that it took, or that it panicked at.
    pub(super) took: Vec<String>,
}

/// One event that tells of wrong tensors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tamper {
    /// Which event of the life.
    pub(super) event: usize,
    pub(super) how: WrongTensor,
}

/// Which tokens of the block's entry something still holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stream {
    Whole,
    /// For each batch row the positions at the entry.
    Positions(Vec<Vec<u32>>),
    Unknown,
}

impl Stream {
    /// What is left after a reduction to these positions more.
    fn then(&self, positions: Option<Vec<Vec<u32>>>) -> Self {
        match (self, positions) {
            (Self::Whole, Some(rows)) => Self::Positions(rows),
            (Self::Positions(before), Some(rows)) => {
                let compose = |(before, row): (&Vec<u32>, Vec<u32>)| {
                    row.into_iter().filter_map(|place| before.get(place as usize).copied()).collect()
                };
                Self::Positions(before.iter().zip(rows).map(compose).collect())
            }
            _ => Self::Unknown,
        }
    }
}

/// Which tokens of the block's entry a sublayer runs on.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) at: String,
    pub(super) queries: Stream,
    pub(super) keys: Stream,
}

fn host<T: Tensor>(positions: Option<Result<T::Indices>>) -> Result<Option<Vec<Vec<u32>>>> {
    positions.transpose()?.map(|positions| positions.to_host()).transpose()
}

/// The method with its observer.
pub(super) struct Watched<'a, T: AttentionOps> {
    method: &'a mut dyn TokenReducer<T>,
    tries: bool,
    tamper: Option<Tamper>,
    events: usize,
    stream: Stream,
    pub(super) facts: Vec<Fact>,
    /// Of every sublayer, in order.
    pub(super) places: Vec<Places>,
    pub(super) trace: TokenTrace,
    /// The nests of this step that did not run.
    pub(super) replaced: BTreeSet<NestId>,
}

impl<'a, T: AttentionOps> Watched<'a, T> {
    pub(super) fn new(method: &'a mut dyn TokenReducer<T>) -> Self {
        Self {
            method,
            tries: false,
            tamper: None,
            events: 0,
            stream: Stream::Whole,
            facts: Vec::new(),
            places: Vec::new(),
            trace: TokenTrace::new(),
            replaced: BTreeSet::new(),
        }
    }

    /// Tries every reduction at once.
    pub(super) fn trying_reductions(self) -> Self {
        Self { tries: true, ..self }
    }

    /// Tells the method wrongly of one event.
    pub(super) fn misled(self, tamper: Tamper) -> Self {
        Self { tamper: Some(tamper), ..self }
    }

    /// Counts an event, and says how it is told wrongly if it is.
    fn next_is_wrong(&mut self) -> Option<WrongTensor> {
        let number = self.events;
        self.events += 1;
        self.tamper.filter(|tamper| tamper.event == number).map(|tamper| tamper.how)
    }

    /// Where the protected tokens stand in the stream as it is.
    fn protected(&self, site: &Site<'_>, batch: usize) -> Option<Vec<Vec<usize>>> {
        let (start, end) = site.protected;
        match &self.stream {
            Stream::Whole => Some(vec![(start..end).collect(); batch]),
            Stream::Positions(rows) => {
                let places = |row: &Vec<u32>| {
                    let is_protected = |&place: &usize| (start..end).contains(&(row[place] as usize));
                    (0..row.len()).filter(is_protected).collect()
                };
                Some(rows.iter().map(places).collect())
            }
            Stream::Unknown => None,
        }
    }

    /// Notes what a sublayer runs on.
    fn place(
        &mut self,
        at: String,
        sub: Sublayer,
        reduction: Option<(Option<Scope>, &dyn Reduction<T>)>,
    ) -> Result<()> {
        let (mut queries, mut keys) = (self.stream.clone(), self.stream.clone());
        if let Some((Some(scope), by)) = reduction {
            let reduced = self.stream.then(host::<T>(by.positions())?);
            if scope != Scope::KeysValues || sub == Sublayer::FeedForward {
                queries = reduced.clone();
            }
            if scope != Scope::Queries {
                keys = reduced;
            }
        }
        self.places.push(Places { at, queries, keys });
        Ok(())
    }

    fn try_out(
        &mut self,
        site: &Site<'_>,
        at: String,
        input: &T,
        (scope, by): (Option<Scope>, &dyn Reduction<T>),
    ) -> Result<()> {
        let batch = input.shape().first().copied().unwrap_or(0);
        let positions = host::<T>(by.representatives())?;
        let shrunk = by.shrink(input)?;
        let restored = by.restore(&shrunk)?;
        let copy = by.clone_box();
        let copied = copy.shrink(input)?;
        let copied = [Array::read(&copied)?, Array::read(&copy.restore(&copied)?)?];
        self.facts.push(Fact {
            at,
            scope,
            input: Array::read(input)?,
            kept: by.kept(),
            protected: self.protected(site, batch),
            took: wrong::taken(by, input, &shrunk),
            shrunk: Array::read(&shrunk)?,
            restored: Array::read(&restored)?,
            doubled: Array::read(&by.restore(&shrunk.affine(2.0, 0.0)?)?)?,
            added: Array::read(&by.restore_added(&shrunk)?)?,
            positions,
            copied,
        });
        Ok(())
    }
}

impl<T: AttentionOps> TokenReducer<T> for Watched<'_, T> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(self.method)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.trace.clear();
        self.replaced.clear();
        self.method.begin_step(step, rows)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        if let Some(how) = self.next_is_wrong() {
            return tell_wrongly(self.method, site, event, how);
        }
        let place = format!("{} layer {}", site.block, site.layer);
        let (at, input, before) = match &event {
            Event::LayerEnter { hidden } => {
                if site.layer == 0 {
                    self.stream = Stream::Whole;
                }
                (format!("{place}, entering"), Some((*hidden).clone()), None)
            }
            Event::Before { sub, normed, .. } => {
                (format!("{place}, before {sub:?}"), Some((*normed).clone()), Some(*sub))
            }
            Event::After { sub, hidden, .. } => {
                (format!("{place}, after {sub:?}"), Some((*hidden).clone()), None)
            }
            _ => (place, None, None),
        };
        let answer = self.method.on_event(site, event)?;
        if let Some(sub) = before {
            note(&mut self.trace, site, sub, &answer);
        }
        let reduction = match &answer {
            Action::Around { scope, by } => Some((Some(*scope), by.as_ref())),
            Action::UntilExit(by) => Some((None, by.as_ref())),
            _ => None,
        };
        if let (Some(sub), false) = (before, matches!(answer, Action::Replace(_))) {
            self.place(at.clone(), sub, reduction)?;
        }
        if let (true, Some(reduction), Some(input)) = (self.tries, reduction, &input) {
            self.try_out(site, at, input, reduction)?;
        }
        if let Action::UntilExit(by) = &answer {
            self.stream = self.stream.then(host::<T>(by.positions())?);
        }
        Ok(answer)
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        let answer = match self.next_is_wrong() {
            Some(how) => self.method.enter_nest(site, &how.of(hidden)?)?,
            None => self.method.enter_nest(site, hidden)?,
        };
        if answer.is_some() {
            self.replaced.insert(site.nest);
        }
        Ok(answer)
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        match self.next_is_wrong() {
            Some(how) => self.method.leave_nest(site, &how.of(output)?),
            None => self.method.leave_nest(site, output),
        }
    }
}

/// The same event with wrong tensors.
fn tell_wrongly<T: AttentionOps>(
    method: &mut dyn TokenReducer<T>,
    site: &Site<'_>,
    event: Event<'_, T>,
    how: WrongTensor,
) -> Result<Action<T>> {
    match event {
        Event::LayerEnter { hidden } => method.on_event(site, Event::LayerEnter { hidden: &how.of(hidden)? }),
        Event::Before { sub, hidden, normed, reductions } => {
            let (hidden, normed) = (&how.of(hidden)?, &how.of(normed)?);
            method.on_event(site, Event::Before { sub, hidden, normed, reductions })
        }
        Event::Attended { sub, graph, first_vote, values, output } => {
            let graph = match (how, graph) {
                (WrongTensor::Missing, _) | (_, None) => None,
                (how, Some(graph)) => Some(AttentionGraph::Dense(how.of(&graph.to_dense()?)?)),
            };
            let first_vote = match (how, first_vote) {
                (WrongTensor::Missing, _) | (_, None) => None,
                (how, Some(vote)) => Some(how.of(&vote)?),
            };
            let (values, output) = (&how.of(values)?, &how.of(output)?);
            method.on_event(site, Event::Attended { sub, graph, first_vote, values, output })
        }
        Event::After { sub, hidden, output, reductions } => {
            let (hidden, output) = (&how.of(hidden)?, &how.of(output)?);
            method.on_event(site, Event::After { sub, hidden, output, reductions })
        }
        Event::BlockExit { hidden } => method.on_event(site, Event::BlockExit { hidden: &how.of(hidden)? }),
        other => method.on_event(site, other),
    }
}
