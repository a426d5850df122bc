//! The plugin seam: what a block pass makes of a reducer's answers.

use atedm_core::plugin::{
    Action, Event, IndexPlan, Reduction, Scope, Site, Sublayer, TokenReducer, Unpruned,
};
use atedm_core::{AttentionOps, Backend, DType, DeviceOf, Error, GraphRequest, Partition, Result, Tensor};

use super::block::{TestBlock, small};
use super::support::{Lab, TensorOf, rejects};
use crate::host::Array;
use crate::tolerance::{assert_chain_close, assert_exact};

/// What a script answers to an event, told by layer and the event's name.
type Script<T> = Box<dyn FnMut(usize, &str) -> Option<Action<T>> + Send>;

/// A reducer that follows a script and writes down what it sees.
struct Scripted<T> {
    script: Script<T>,
    wants: GraphRequest<T>,
    seen: Vec<String>,
}

impl<T: AttentionOps> Scripted<T> {
    fn new(script: impl FnMut(usize, &str) -> Option<Action<T>> + Send + 'static) -> Self {
        Self { script: Box::new(script), wants: GraphRequest::None, seen: Vec::new() }
    }
}

fn sub_name(sub: Sublayer) -> &'static str {
    match sub {
        Sublayer::SelfAttention => "self",
        Sublayer::CrossAttention => "cross",
        Sublayer::FeedForward => "ff",
    }
}

impl<T: AttentionOps> TokenReducer<T> for Scripted<T> {
    fn wants(&mut self, _site: &Site<'_>, _sub: Sublayer) -> Result<GraphRequest<T>> {
        Ok(self.wants.clone())
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let (name, tokens) = match &event {
            Event::LayerEnter { hidden } => ("enter".to_string(), hidden.shape()[1]),
            Event::Before { sub, hidden, normed } => {
                assert_eq!(hidden.shape(), normed.shape());
                (format!("before {}", sub_name(*sub)), hidden.shape()[1])
            }
            Event::Attended { sub, graph, .. } => {
                let form = if graph.is_some() { " with graph" } else { "" };
                (format!("attended {}{form}", sub_name(*sub)), site.tokens)
            }
            Event::After { sub, hidden } => (format!("after {}", sub_name(*sub)), hidden.shape()[1]),
            Event::BlockExit { hidden } => ("exit".to_string(), hidden.shape()[1]),
            other => (format!("{other:?}"), 0),
        };
        assert_eq!(site.tokens, tokens, "the site counts the stream's tokens at {name}");
        self.seen.push(format!("{} {name} {tokens}", site.layer));
        Ok((self.script)(site.layer, &name).unwrap_or(Action::Continue))
    }
}

/// A plan that keeps every `stride`-th of `tokens`, and gives each removed token to the kept one before it.
fn plan<T: AttentionOps>(
    tokens: usize,
    stride: usize,
    batch: usize,
    on: &T::Device,
) -> Result<Box<dyn Reduction<T>>> {
    use atedm_core::Indices;
    let kept: Vec<u32> = (0..tokens as u32).step_by(stride).collect();
    let partition = Partition::<T>::from_kept(&vec![kept; batch], tokens, on)?;
    let donors: Vec<u32> =
        (0..tokens as u32).filter(|i| i % stride as u32 != 0).map(|i| i / stride as u32).collect();
    let donors = T::Indices::from_host(&vec![donors; batch], on)?;
    Ok(Box::new(IndexPlan::new(&partition, &donors)?))
}

fn block<B: Backend>(device: &DeviceOf<B>, dtype: DType, seed: u64) -> Result<TestBlock<TensorOf<B>>> {
    small(&mut Lab::<B>::new(device, dtype, seed), 2)
}

/// The identity: the plain block of the oracle, and every event in order.
pub fn unpruned_is_the_plain_block<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = block::<B>(device, dtype, 1)?;
    let whole = block.run(&mut Unpruned)?;
    assert_chain_close(&whole, &block.expected(), dtype, "the whole block");
    let mut watching = Scripted::new(|_, _| None);
    assert_exact(&block.run(&mut watching)?, &Array::read(&whole)?, "watched");
    let layer = |i: usize| {
        [
            "enter",
            "before self",
            "attended self",
            "after self",
            "before cross",
            "attended cross",
            "after cross",
        ]
        .into_iter()
        .chain(["before ff", "after ff"])
        .map(move |event| format!("{i} {event} 35"))
    };
    let expected: Vec<String> = layer(0).chain(layer(1)).chain(["1 exit 35".to_string()]).collect();
    assert_eq!(watching.seen, expected);
    Ok(())
}

/// `UntilExit` at three events: the stream shrinks each time, and is restored in reverse.
pub fn reductions_form_a_stack<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = block::<B>(device, dtype, 2)?;
    let on = device.clone();
    let mut reducer = Scripted::new(move |layer, name| {
        let (tokens, stride) = match (layer, name) {
            (0, "after self") => (35, 2),
            (0, "after ff") => (18, 3),
            (1, "enter") => (6, 2),
            _ => return None,
        };
        Some(Action::UntilExit(plan(tokens, stride, 2, &on).unwrap()))
    });
    let restored = block.run(&mut reducer)?;
    assert_eq!(restored.shape(), block.hidden.host.shape);
    let counts: Vec<usize> =
        reducer.seen.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    let expected = [vec![35; 4], vec![18; 5], vec![6; 1], vec![3; 8], vec![35; 1]].concat();
    assert_eq!(counts, expected, "{:?}", reducer.seen);
    // tokens 0 to 11 fall, step by step, to the first kept one
    let host = Array::read(&restored)?;
    for token in 1..12 {
        for channel in 0..16 {
            assert_eq!(host.at(&[0, token, channel]), host.at(&[0, 0, channel]), "token {token}");
        }
    }
    Ok(())
}

/// `Around` a sublayer: its input is reduced, its output restored before the residual is added.
pub fn around_is_undone_before_the_residual<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = block::<B>(device, dtype, 3)?;
    let whole = Array::read(&block.run(&mut Unpruned)?)?;
    for (event, scopes) in [
        ("before self", &[Scope::Queries, Scope::KeysValues, Scope::Both][..]),
        ("before cross", &[Scope::Queries]),
        ("before ff", &[Scope::Both]),
    ] {
        for &scope in scopes {
            let around = |stride: usize| {
                let on = device.clone();
                Scripted::new(move |_, name: &str| {
                    (name == event).then(|| Action::Around { scope, by: plan(35, stride, 2, &on).unwrap() })
                })
            };
            let mut keeps_all = around(1);
            assert_chain_close(&block.run(&mut keeps_all)?, &whole, dtype, "a plan that keeps every token");
            let mut halves = around(2);
            let reduced = block.run(&mut halves)?;
            assert_eq!(reduced.shape(), block.hidden.host.shape);
            assert!(halves.seen.iter().all(|line| line.ends_with(" 35")), "the stream itself stays whole");
            let off = crate::tolerance::relative_l2(&Array::read(&reduced)?.data, &whole.data);
            assert!(off > 1e-3, "{event} {scope:?} changes nothing");
        }
    }
    Ok(())
}

/// Answers where they are not allowed are plugin errors.
pub fn misplaced_answers_are_errors<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = block::<B>(device, dtype, 4)?;
    let until_exit = ["before self", "before ff", "attended self", "attended cross", "exit"];
    let around = ["enter", "attended self", "after self", "after ff", "exit"];
    let events = until_exit.map(|event| (event, false)).into_iter().chain(around.map(|event| (event, true)));
    for (event, is_around) in events {
        let on = device.clone();
        let mut reducer = Scripted::new(move |_, name: &str| {
            (name == event).then(|| match is_around {
                true => Action::Around { scope: Scope::Both, by: plan(35, 2, 2, &on).unwrap() },
                false => Action::UntilExit(plan(35, 2, 2, &on).unwrap()),
            })
        });
        let error = rejects(event, || block.run(&mut reducer));
        assert!(matches!(error, Error::Plugin { .. }), "{event}: {error}");
    }
    let on = device.clone();
    let mut other = Scripted::new(move |_, name: &str| {
        (name == "enter").then(|| Action::UntilExit(plan(34, 2, 2, &on).unwrap()))
    });
    rejects("a plan for another number of tokens", || block.run(&mut other));
    Ok(())
}

/// A graph comes with `GraphRequest::Lazy` and `GraphRequest::FirstVote`, and only then.
pub fn reducers_pay_only_for_what_they_want<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = block::<B>(device, dtype, 5)?;
    let scores = TensorOf::<B>::full(1.0 / 35.0, &[2, 2, 35], dtype.accumulator(), device)?;
    for (wants, graphs) in
        [(GraphRequest::None, 0), (GraphRequest::Lazy, 4), (GraphRequest::FirstVote(scores), 4)]
    {
        let mut reducer = Scripted::new(|_, _| None);
        reducer.wants = wants;
        block.run(&mut reducer)?;
        let seen = reducer.seen.iter().filter(|line| line.contains("with graph")).count();
        assert_eq!(seen, graphs);
    }
    Ok(())
}
