//! What a stack is before any tensor exists: what its members are, together.

use std::sync::Arc;

use serde_json::Value;

use crate::plugin::nest::NestId;
use crate::plugin::options::Options;
use crate::plugin::plan::{MethodPlan, Others, Scoring};
use crate::plugin::tokens::{BlockShape, LayerTokens, ModelShape, StepOf};
use crate::{Error, Result};

/// A member: its registered name and its plan.
#[derive(Debug, Clone)]
struct Member {
    name: String,
    /// Without the others.
    alone: Arc<dyn MethodPlan>,
    /// Beside the others.
    plan: Arc<dyn MethodPlan>,
}

/// The plan of several methods on one model.
#[derive(Debug, Clone)]
pub struct StackPlan {
    members: Vec<Member>,
}

impl StackPlan {
    /// Of these members, outer first, for a model if it is known.
    ///
    /// # Errors
    /// [`Error::Config`] naming two members that do the same thing: that replace one nest or one sublayer, that reduce
    /// one sublayer at one step, or of which one replaces a sublayer whose tokens the other reduces without
    /// [keeping whole outputs](MethodPlan::keeps_whole_outputs); two with budgets.
    pub fn new(
        members: impl IntoIterator<Item = (String, Box<dyn MethodPlan>)>,
        model: Option<&ModelShape>,
    ) -> Result<Self> {
        let stack = Self::of(members.into_iter().map(|(name, plan)| (name, Arc::from(plan))).collect());
        let budgets: Vec<&str> = stack
            .members
            .iter()
            .filter(|member| member.plan.budget_tflops().is_some())
            .map(|member| member.name.as_str())
            .collect();
        if let [first, second, ..] = budgets[..] {
            return Err(Error::config("budget_tflops", format!("{first} and {second} both ask for one")));
        }
        if let Some(model) = model {
            stack.check(model)?;
        }
        Ok(stack)
    }

    /// These members, each beside the others.
    fn of(members: Vec<(String, Arc<dyn MethodPlan>)>) -> Self {
        let beside = |(i, (name, alone)): (usize, &(String, Arc<dyn MethodPlan>))| {
            let others = members.iter().enumerate().filter(|(j, _)| *j != i);
            let others = Others::new(others.map(|(_, (_, plan))| plan.clone()).collect());
            let plan = alone.beside(&others).map_or_else(|| alone.clone(), Arc::from);
            Member { name: name.clone(), alone: alone.clone(), plan }
        };
        Self { members: members.iter().enumerate().map(beside).collect() }
    }

    /// The members' names and plans, outer first.
    pub fn members(&self) -> impl Iterator<Item = (&str, &dyn MethodPlan)> {
        self.members.iter().map(|member| (member.name.as_str(), member.plan.as_ref()))
    }

    fn check(&self, model: &ModelShape) -> Result<()> {
        let claims = self.members.iter().map(|member| Claims::of(member, model));
        let claims = claims.collect::<Result<Vec<_>>>()?;
        for (i, outer) in claims.iter().enumerate() {
            for inner in &claims[i + 1..] {
                outer.check(inner, model)?;
            }
        }
        Ok(())
    }

    /// The one member whose ratio can be set, and where it stands.
    fn scalable(&self) -> Option<usize> {
        let budgeted = self.members.iter().position(|member| member.plan.budget_tflops().is_some());
        budgeted.or_else(|| {
            let mut all = (0..self.members.len()).filter(|&i| self.members[i].plan.with_ratio(0.5).is_some());
            all.next().filter(|_| all.next().is_none())
        })
    }

    /// The same stack with other plans for the members that have some.
    fn varied(
        &self,
        of: impl Fn(&dyn MethodPlan) -> Option<Box<dyn MethodPlan>>,
    ) -> Option<Box<dyn MethodPlan>> {
        let mut any = false;
        let other = |member: &Member| {
            let plan = of(member.alone.as_ref());
            any |= plan.is_some();
            (member.name.clone(), plan.map_or_else(|| member.alone.clone(), Arc::from))
        };
        let members = self.members.iter().map(other).collect();
        any.then(|| Box::new(Self::of(members)) as Box<dyn MethodPlan>)
    }

    /// The same stack with another plan for one member.
    fn with(&self, index: usize, plan: Box<dyn MethodPlan>) -> Self {
        let of = |member: &Member| (member.name.clone(), member.alone.clone());
        let mut members: Vec<_> = self.members.iter().map(of).collect();
        if let Some((_, alone)) = members.get_mut(index) {
            *alone = plan.into();
        }
        Self::of(members)
    }
}

impl MethodPlan for StackPlan {
    fn settings(&self) -> Options {
        let of = |member: &Member| (member.name.clone(), Value::Object(member.plan.settings()));
        self.members.iter().map(of).collect()
    }

    fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        let mut all = block.whole();
        for member in &self.members {
            let Some(layers) = member.plan.tokens(block, step)? else { return Ok(None) };
            for (all, layer) in all.iter_mut().zip(layers) {
                *all = fewest(*all, layer);
            }
        }
        Ok(Some(all))
    }

    fn gives_positions(&self) -> bool {
        self.members.iter().all(|member| member.plan.gives_positions())
    }

    fn replaced(&self, step: StepOf) -> Option<NestId> {
        self.members.iter().filter_map(|member| member.plan.replaced(step)).min()
    }

    /// Guidance goes on as long as every member wants it.
    fn wants_guidance(&self, step: StepOf) -> bool {
        self.members.iter().all(|member| member.plan.wants_guidance(step))
    }

    fn memory(&self, model: &ModelShape) -> u64 {
        self.members.iter().fold(0, |sum, member| sum.saturating_add(member.plan.memory(model)))
    }

    /// That of the member that reduces the block. What was to be found at a step at which the block did not run is found
    /// at the next at which it runs; which block lies in which nest is not known here, so such steps count as they are
    /// planned.
    fn scoring(&self, block: &BlockShape, step: StepOf) -> Result<Scoring> {
        for member in &self.members {
            let reduces = match member.plan.tokens(block, step)? {
                Some(layers) => layers.iter().any(|layer| layer.least() < block.grid.tokens()),
                None => true,
            };
            if reduces {
                return member.plan.scoring(block, step);
            }
        }
        Ok(Scoring::Fresh)
    }

    fn budget_tflops(&self) -> Option<f64> {
        self.members.iter().find_map(|member| member.plan.budget_tflops())
    }

    fn with_ratio(&self, ratio: f64) -> Option<Result<Box<dyn MethodPlan>>> {
        let index = self.scalable()?;
        let plan = self.members.get(index)?.alone.with_ratio(ratio)?;
        Some(plan.map(|plan| Box::new(self.with(index, plan)) as Box<dyn MethodPlan>))
    }

    fn without_early_stop(&self) -> Option<Box<dyn MethodPlan>> {
        self.varied(|plan| plan.without_early_stop())
    }

    fn converged(&self) -> Option<Box<dyn MethodPlan>> {
        self.varied(|plan| plan.converged())
    }

    fn is_slow_to_watch(&self) -> bool {
        self.members.iter().any(|member| member.plan.is_slow_to_watch())
    }

    fn remarks(&self, model: &ModelShape) -> Result<Vec<String>> {
        let mut remarks = Vec::new();
        for member in &self.members {
            let own = member.plan.remarks(model)?;
            remarks.extend(own.into_iter().map(|remark| format!("{}: {remark}", member.name)));
        }
        Ok(remarks)
    }
}

/// For each sublayer the fewer tokens; none where one of the two does not run it.
fn fewest(a: LayerTokens, b: LayerTokens) -> LayerTokens {
    LayerTokens {
        self_attention: a.self_attention.min(b.self_attention),
        self_keys: a.self_keys.min(b.self_keys),
        cross_attention: a.cross_attention.min(b.cross_attention),
        feed_forward: a.feed_forward.min(b.feed_forward),
    }
}

/// What a member does with one sublayer at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Nothing,
    Reduces,
    Replaces,
}

/// Everything that a member does in a run.
struct Claims<'a> {
    name: &'a str,
    /// Whether an output that it gives fits a shrunk stream.
    keeps_whole_outputs: bool,
    /// For each step the nest that does not run.
    nests: Vec<Option<NestId>>,
    /// For each step, block and layer the three sublayers; nothing where only a run tells.
    sublayers: Vec<Vec<Vec<[Claim; 3]>>>,
}

/// The tokens of each sublayer; of self-attention the fewer of its queries and its keys.
fn each(layer: LayerTokens) -> [usize; 3] {
    [layer.self_attention.min(layer.self_keys), layer.cross_attention, layer.feed_forward]
}

const SUBLAYERS: [&str; 3] = ["self-attention", "cross-attention", "feed-forward"];

impl<'a> Claims<'a> {
    fn of(member: &'a Member, model: &ModelShape) -> Result<Self> {
        // what a budget leaves open is the ratio, and any claims the same
        let solved = match member.plan.budget_tflops() {
            Some(_) => member.plan.with_ratio(0.5).transpose()?,
            None => None,
        };
        let plan = solved.as_deref().unwrap_or(member.plan.as_ref());
        let mut sublayers = Vec::with_capacity(model.steps);
        for step in model.each_step() {
            let block = |block: &BlockShape| -> Result<Vec<[Claim; 3]>> {
                // a sublayer that the block's layers do not have has 0 tokens, too
                let claim = |(tokens, whole): (usize, usize)| match tokens {
                    fewer if fewer >= whole => Claim::Nothing,
                    0 => Claim::Replaces,
                    _ => Claim::Reduces,
                };
                let layer = |(layer, whole): (LayerTokens, LayerTokens)| {
                    let (layer, whole) = (each(layer), each(whole));
                    [(layer[0], whole[0]), (layer[1], whole[1]), (layer[2], whole[2])].map(claim)
                };
                let layers = plan.tokens(block, step)?.unwrap_or_default();
                Ok(layers.into_iter().zip(block.whole()).map(layer).collect())
            };
            sublayers.push(model.blocks.iter().map(block).collect::<Result<_>>()?);
        }
        let nests = model.each_step().map(|step| plan.replaced(step)).collect();
        Ok(Self { name: &member.name, keeps_whole_outputs: plan.keeps_whole_outputs(), nests, sublayers })
    }

    fn check(&self, inner: &Claims<'_>, model: &ModelShape) -> Result<()> {
        let conflict = |reason: String| {
            let field = format!("{}{}{}", self.name, super::name::JOIN, inner.name);
            Err(Error::config(field, reason))
        };
        let nest = self.nests.iter().flatten().find(|nest| inner.nests.contains(&Some(**nest)));
        if let Some(nest) = nest {
            return conflict(format!(
                "both give an earlier output of {nest}: one of them would never be asked"
            ));
        }
        for (b, block) in model.blocks.iter().enumerate() {
            for layer in 0..block.depth {
                for (s, sub) in SUBLAYERS.iter().enumerate() {
                    let of = |claims: &Claims<'_>| -> Vec<Claim> {
                        let at = |step: &Vec<Vec<[Claim; 3]>>| {
                            let layers = step.get(b).and_then(|layers| layers.get(layer));
                            layers.map_or(Claim::Nothing, |layer| layer[s])
                        };
                        claims.sublayers.iter().map(at).collect()
                    };
                    let (a, b) = (of(self), of(inner));
                    let place = format!("{sub} in layer {layer} of {}", block.id);
                    let replaces = |claims: &[Claim]| claims.contains(&Claim::Replaces);
                    let reduces = |claims: &[Claim]| claims.contains(&Claim::Reduces);
                    if replaces(&a) && replaces(&b) {
                        return conflict(format!("both give an earlier output of {place}"));
                    }
                    let misfits = |of: &Claims<'_>, a: &[Claim], b: &[Claim]| {
                        replaces(a) && reduces(b) && !of.keeps_whole_outputs
                    };
                    if misfits(self, &a, &b) || misfits(inner, &b, &a) {
                        return conflict(format!(
                            "one gives an earlier output of {place}, the other changes its tokens from step to step"
                        ));
                    }
                    let both = |step: usize| [&a, &b].iter().all(|of| of[step] == Claim::Reduces);
                    if let Some(step) = (0..a.len()).find(|&step| both(step)) {
                        return conflict(format!("both reduce the tokens of {place} at step {step}"));
                    }
                }
            }
        }
        Ok(())
    }
}
