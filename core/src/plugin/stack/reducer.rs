//! A reducer over reducers.

use crate::backend::{AttentionGraph, AttentionOps, GraphRequest};
use crate::plugin::nest::NestSite;
use crate::plugin::reducer::{Action, Event, Run, TokenReducer};
use crate::plugin::site::{Row, Site, Step, Sublayer};
use crate::{Error, Result};

/// A member of a stack, and what it asked of the next attention.
struct Member<T: AttentionOps> {
    name: String,
    reducer: Box<dyn TokenReducer<T>>,
    wants_graph: bool,
    /// Whether the first vote is cast with its scores.
    votes: bool,
}

/// Several methods on one model, outer first.
pub(super) struct Stack<T: AttentionOps> {
    members: Vec<Member<T>>,
}

impl<T: AttentionOps> Stack<T> {
    pub(super) fn new(members: Vec<(String, Box<dyn TokenReducer<T>>)>) -> Self {
        let member = |(name, reducer)| Member { name, reducer, wants_graph: false, votes: false };
        Self { members: members.into_iter().map(member).collect() }
    }

    /// Tells everybody; at most one may answer with more than `Continue`. An output in a sublayer's place counts more than
    /// a reduction around it, for there is nothing left to reduce.
    fn ask_all<'a>(
        &mut self,
        site: &Site<'_>,
        event: impl Fn(&Member<T>) -> Event<'a, T>,
    ) -> Result<Action<T>>
    where
        T: 'a,
    {
        let mut answer: Option<(usize, Action<T>)> = None;
        for i in 0..self.members.len() {
            let told = event(&self.members[i]);
            let before = matches!(told, Event::Before { .. });
            match (self.members[i].reducer.on_event(site, told)?, &answer) {
                (Action::Continue, _) => {}
                // what the outer member gives the others are not asked about
                (action @ Action::Replace(_), None | Some((_, Action::Around { .. }))) if before => {
                    return Ok(action);
                }
                (action, None) => answer = Some((i, action)),
                (_, Some((first, _))) => return Err(self.conflict(site, *first, i)),
            }
        }
        Ok(answer.map_or(Action::Continue, |(_, action)| action))
    }

    fn conflict(&self, site: &Site<'_>, first: usize, second: usize) -> Error {
        let name = |i: usize| self.members.get(i).map_or("", |member| member.name.as_str());
        let names: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
        let reason = format!(
            "{} and {} both want to change the same place in {} layer {}",
            name(first),
            name(second),
            site.block,
            site.layer
        );
        Error::Plugin { name: names.join(&super::name::JOIN.to_string()), reason }
    }
}

impl<T: AttentionOps> TokenReducer<T> for Stack<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.reducer.begin_run(run))
    }

    /// Guidance goes on as long as every member wants it.
    fn wants_guidance(&mut self, step: &Step) -> bool {
        self.members.iter_mut().all(|member| member.reducer.wants_guidance(step))
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.reducer.begin_step(step, rows))
    }

    /// What serves every member. The first vote is that of the outermost member that has scores for one; the others find
    /// none beside the graph and cast their own.
    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        let mut all = GraphRequest::None;
        for member in &mut self.members {
            let wants = member.reducer.wants(site, sub)?;
            member.wants_graph = !matches!(wants, GraphRequest::None);
            member.votes = false;
            all = match (all, wants) {
                (all, GraphRequest::None) => all,
                (GraphRequest::Stored, _) | (_, GraphRequest::Stored) => GraphRequest::Stored,
                (all @ GraphRequest::FirstVote(_), _) => all,
                (_, wants) => {
                    member.votes = matches!(wants, GraphRequest::FirstVote(_));
                    wants
                }
            };
        }
        Ok(all)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        match event {
            Event::LayerEnter { hidden } => self.ask_all(site, |_| Event::LayerEnter { hidden }),
            Event::Before { sub, hidden, normed, reductions } => {
                self.ask_all(site, |_| Event::Before { sub, hidden, normed, reductions })
            }
            Event::Attended { sub, graph, first_vote, values, output } => self.ask_all(site, |member| {
                let graph: Option<AttentionGraph<T>> = graph.clone().filter(|_| member.wants_graph);
                let first_vote = first_vote.clone().filter(|_| member.votes);
                Event::Attended { sub, graph, first_vote, values, output }
            }),
            Event::After { sub, hidden, output, reductions } => {
                self.ask_all(site, |_| Event::After { sub, hidden, output, reductions })
            }
            Event::BlockExit { hidden } => self.ask_all(site, |_| Event::BlockExit { hidden }),
        }
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        for i in 0..self.members.len() {
            if let Some(output) = self.members[i].reducer.enter_nest(site, hidden)? {
                // to the outer members the inner ones are part of the model: the nest has run
                let instead = leave(&mut self.members[..i], site, &output)?;
                return Ok(Some(instead.unwrap_or(output)));
            }
        }
        Ok(None)
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        leave(&mut self.members, site, output)
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.reducer.end_step(prediction))
    }
}

/// Tells members, the innermost first, that a nest has run; what one gives in place of its output, the next outer one is
/// told of.
fn leave<T: AttentionOps>(members: &mut [Member<T>], site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
    let mut instead: Option<T> = None;
    for member in members.iter_mut().rev() {
        let other = member.reducer.leave_nest(site, instead.as_ref().unwrap_or(output))?;
        instead = other.or(instead);
    }
    Ok(instead)
}
