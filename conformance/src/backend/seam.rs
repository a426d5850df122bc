//! Checks of the plugin seam: the effect of a reducer's answers on a block pass.

use atedm_core::plugin::{
    Action, BlockId, Event, IndexPlan, Reduction, Row, Scope, Site, Sublayer, TokenReducer, Unpruned,
};
use atedm_core::{
    AttentionOps, Backend, DType, DeviceOf, Error, GraphRequest, Indices, Partition, Result, Tensor,
};

use super::block::{Gathered, Probe, TestBlock, Visit, first_step, small};
use super::support::{Lab, TensorOf, rejects};
use crate::host::Array;
use crate::tolerance::{assert_chain_close, assert_exact};

/// The answer to an event, given by its layer and name.
type Script<T> = Box<dyn FnMut(usize, &str) -> Option<Action<T>> + Send>;

/// A reducer that follows a script and records the events.
struct Scripted<T: Tensor> {
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
        Sublayer::JointAttention => "joint",
        Sublayer::FeedForward => "ff",
        Sublayer::Parallel => "parallel",
    }
}

impl<T: AttentionOps> TokenReducer<T> for Scripted<T> {
    fn wants(&mut self, _site: &Site<'_>, _sub: Sublayer) -> Result<GraphRequest<T>> {
        Ok(self.wants.clone())
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let (name, tokens) = match &event {
            Event::LayerEnter { hidden } => ("enter".to_string(), hidden.shape()[1]),
            Event::Before { sub, hidden, normed, .. } => {
                assert_eq!(hidden.shape(), normed.shape());
                (format!("before {}", sub_name(*sub)), hidden.shape()[1])
            }
            Event::Attended { sub, graph, .. } => {
                let form = if graph.is_some() { " with graph" } else { "" };
                (format!("attended {}{form}", sub_name(*sub)), site.tokens)
            }
            Event::After { sub, hidden, .. } => (format!("after {}", sub_name(*sub)), hidden.shape()[1]),
            Event::BlockExit { hidden } => ("exit".to_string(), hidden.shape()[1]),
            other => (format!("{other:?}"), 0),
        };
        assert_eq!(site.tokens, tokens, "the site counts the stream's tokens at {name}");
        self.seen.push(format!("{} {name} {tokens}", site.layer));
        Ok((self.script)(site.layer, &name).unwrap_or(Action::Continue))
    }
}

/// A plan that keeps every `stride`-th of `tokens`, and maps each removed token to the kept one before it.
fn plan<T: AttentionOps>(
    tokens: usize,
    stride: usize,
    batch: usize,
    on: &T::Device,
) -> Result<Box<dyn Reduction<T>>> {
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

/// The identity gives the oracle's plain block, and every event in order.
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

/// `UntilExit` at three events: the stream shrinks each time, and is restored in reverse order.
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
    // tokens 0 to 11 are mapped to the first kept one, step by step
    let host = Array::read(&restored)?;
    for token in 1..12 {
        for channel in 0..16 {
            assert_eq!(host.at(&[0, token, channel]), host.at(&[0, 0, channel]), "token {token}");
        }
    }
    Ok(())
}

/// `Around` a sublayer: its input is reduced, and its output is restored before the residual is added.
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

/// Answers that are not allowed at an event are plugin errors.
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

/// There is a graph with `GraphRequest::Lazy` and `GraphRequest::FirstVote`, and only then.
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

/// Joint attention and a parallel sublayer equal the sums without a pass. They have their own events. Reductions work
/// around them and until the exit.
pub fn joint_and_parallel_layers_are_plain_sums<B: Backend>(
    device: &DeviceOf<B>,
    dtype: DType,
) -> Result<()> {
    let forms: [(&str, &'static [Sublayer], &[&str]); 2] = [
        ("double", &[Sublayer::JointAttention, Sublayer::FeedForward], &["joint", "ff"]),
        ("single", &[Sublayer::Parallel], &["parallel"]),
    ];
    for (stage, sublayers, names) in forms {
        let block = block::<B>(device, dtype, 6)?.made_of(BlockId::named(stage, 0, 1)?, sublayers);
        let whole = Array::read(&block.run(&mut Unpruned)?)?;
        assert_chain_close(&block.plain()?, &whole, dtype, stage);
        let mut watching = Scripted::new(|_, _| None);
        watching.wants = GraphRequest::Lazy;
        assert_exact(&block.run(&mut watching)?, &whole, "watched");
        let of_sub = |name: &&str| match *name {
            "ff" => vec!["before ff".to_string(), "after ff".to_string()],
            name => ["before", "attended", "after"]
                .map(|event| {
                    format!("{event} {name}{}", if event == "attended" { " with graph" } else { "" })
                })
                .to_vec(),
        };
        let layer = |i: usize| {
            let events = std::iter::once("enter".to_string()).chain(names.iter().flat_map(of_sub));
            events.map(move |event| format!("{i} {event} 35")).collect::<Vec<_>>()
        };
        let expected = [layer(0), layer(1), vec!["1 exit 35".to_string()]].concat();
        assert_eq!(watching.seen, expected, "{stage}");
        for scope in [Scope::Queries, Scope::KeysValues, Scope::Both] {
            let event = format!("before {}", names[0]);
            let on = device.clone();
            let mut all = Scripted::new(move |_, name: &str| {
                (name == event).then(|| Action::Around { scope, by: plan(35, 1, 2, &on).unwrap() })
            });
            assert_chain_close(&block.run(&mut all)?, &whole, dtype, "a plan that keeps every token");
        }
        let (event, on) = (format!("after {}", names[0]), device.clone());
        let mut shrinks = Scripted::new(move |layer, name: &str| {
            (layer == 0 && name == event).then(|| Action::UntilExit(plan(35, 2, 2, &on).unwrap()))
        });
        assert_eq!(block.run(&mut shrinks)?.shape(), block.hidden.host.shape);
        assert!(shrinks.seen.iter().any(|line| line.ends_with(" 18")), "{:?}", shrinks.seen);
    }
    Ok(())
}

/// A per-token table is gathered where the stream is reduced twice and a sublayer once more. The rows are those of the
/// tokens' positions at the block's entry, for one table and for one per batch row. A table for other tokens is an
/// error.
pub fn tables_follow_the_tokens<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 7);
    let block = block::<B>(device, dtype, 7)?;
    let reducer = || {
        let on = device.clone();
        Scripted::new(move |layer, name: &str| match (layer, name) {
            (0, "after self") => Some(Action::UntilExit(uneven(35, &on).unwrap())),
            (0, "after ff") => Some(Action::UntilExit(plan(17, 3, 2, &on).unwrap())),
            (1, "before self") => {
                Some(Action::Around { scope: Scope::KeysValues, by: plan(6, 2, 2, &on).unwrap() })
            }
            (1, "before ff") => Some(Action::Around { scope: Scope::Both, by: plan(6, 4, 2, &on).unwrap() }),
            _ => None,
        })
    };
    // the positions by hand: even tokens of the first row, odd ones of the second; then every third of those
    let once: Vec<Vec<u32>> = vec![(0..17).map(|i| 2 * i).collect(), (0..17).map(|i| 2 * i + 1).collect()];
    let every = |rows: &[Vec<u32>], stride: usize| -> Vec<Vec<u32>> {
        rows.iter().map(|row| row.iter().copied().step_by(stride).collect()).collect()
    };
    let twice = every(&once, 3);
    type Places = Option<Vec<Vec<u32>>>;
    let expected: [(Places, Places); 6] = [
        (None, None),
        (Some(once.clone()), None),
        (Some(once), None),
        (Some(twice.clone()), Some(every(&twice, 2))),
        (Some(twice.clone()), None),
        (Some(every(&twice, 4)), None),
    ];
    for of_rows in [1, 2] {
        let shape: &[usize] = if of_rows == 1 { &[35, 2] } else { &[2, 35, 2] };
        let value = |row: usize, token: usize, channel: usize| (100 * row + token + 50 * channel) as f64;
        let table = Array::from_fn(shape, |i| match i[..] {
            [token, channel] => value(0, token, channel),
            _ => value(i[0], i[1], i[2]),
        });
        let gathered = probed(&block, &mut reducer(), lab.sample(table.clone())?.on)?;
        assert_eq!(gathered.len(), expected.len());
        for (gathered, (queries, keys)) in gathered.into_iter().zip(&expected) {
            let what = format!("{of_rows} tables, layer {} {:?}", gathered.layer, gathered.sub);
            let check = |got: TensorOf<B>, places: &Option<Vec<Vec<u32>>>| match places {
                None => assert_exact(&got, &table, &what),
                Some(places) => {
                    let row = |b: usize| if of_rows == 1 { 0 } else { b };
                    let of = |i: &[usize]| value(row(i[0]), places[i[0]][i[1]] as usize, i[2]);
                    assert_exact(&got, &Array::from_fn(&[2, places[0].len(), 2], of), &what);
                }
            };
            check(gathered.queries?, queries);
            if let (Some(got), Some(_)) = (gathered.keys, keys) {
                check(got?, keys);
            }
        }
    }
    for shape in [&[34, 2][..], &[3, 35, 2], &[35]] {
        let table = lab.sample(Array::full(shape, 1.0))?.on;
        let refused = probed(&block, &mut reducer(), table)?;
        assert!(refused.iter().any(|gathered| gathered.queries.is_err()), "a table {shape:?} is taken");
    }
    Ok(())
}

/// The rows of this table that a run of `block` gathers.
fn probed<T: AttentionOps>(
    block: &TestBlock<T>,
    reducer: &mut dyn TokenReducer<T>,
    table: T,
) -> Result<Vec<Gathered<T>>> {
    let probe = Probe::new(table);
    let rows = Row::singles(2);
    let visit = Visit {
        hidden: &block.hidden.on,
        text: &block.text.on,
        grid: block.grid,
        rows: &rows,
        step: first_step(1),
        protected: (0, 0),
        stops_in: None,
        probe: Some(&probe),
    };
    block.visit(reducer, visit)?;
    Ok(probe.gathered())
}

/// Keeps the even tokens of the first row and the odd ones of the second, 17 each.
fn uneven<T: AttentionOps>(tokens: u32, on: &T::Device) -> Result<Box<dyn Reduction<T>>> {
    let kept: Vec<Vec<u32>> = vec![(0..tokens - 1).step_by(2).collect(), (1..tokens).step_by(2).collect()];
    let partition = Partition::<T>::from_kept(&kept, tokens as usize, on)?;
    let donors = vec![vec![0; partition.pruned.dims().1]; 2];
    Ok(Box::new(IndexPlan::new(&partition, &T::Indices::from_host(&donors, on)?)?))
}
