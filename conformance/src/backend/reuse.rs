//! Checks of outputs that replace the computation of sublayers and of nests.

use atedm_core::plugin::{
    Action, Event, NestId, NestSite, Row, Site, Sublayer, TokenReducer, Unpruned, nest,
};
use atedm_core::{AttentionOps, Backend, DType, DeviceOf, Error, GraphRequest, Result, Tensor};

use super::block::{TestBlock, first_step, small};
use super::support::{Lab, TensorOf, rejects};
use crate::host::Array;
use crate::tolerance::{assert_chain_close, assert_exact};

/// Stores the output of one sublayer, and supplies it once it is told to.
struct Keeper<T> {
    sub: Sublayer,
    layer: usize,
    kept: Option<T>,
    gives: bool,
    /// Number of sublayers that ran, counted at their last event before the sum.
    attended: usize,
    asked: usize,
    told: Vec<(Sublayer, T)>,
}

impl<T: AttentionOps> Keeper<T> {
    fn new(sub: Sublayer, layer: usize) -> Self {
        Self { sub, layer, kept: None, gives: false, attended: 0, asked: 0, told: Vec::new() }
    }
}

impl<T: AttentionOps> TokenReducer<T> for Keeper<T> {
    fn wants(&mut self, _site: &Site<'_>, _sub: Sublayer) -> Result<GraphRequest<T>> {
        self.asked += 1;
        Ok(GraphRequest::None)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let here = |sub: Sublayer| (sub, site.layer) == (self.sub, self.layer);
        match event {
            Event::Before { sub, .. } if self.gives && here(sub) => {
                Ok(self.kept.clone().map_or(Action::Continue, Action::Replace))
            }
            Event::Attended { output, .. } => {
                self.attended += 1;
                self.told.push((Sublayer::SelfAttention, output.clone()));
                Ok(Action::Continue)
            }
            Event::After { sub, output, .. } => {
                if here(sub) && !self.gives {
                    self.kept = Some(output.clone());
                }
                if sub != Sublayer::FeedForward && !(self.gives && here(sub)) {
                    // the added tensor is the output of attention
                    let (_, before) = self.told.pop().ok_or(Error::Cancelled)?;
                    assert_exact(output, &Array::read(&before)?, "the output before and after the sum");
                }
                Ok(Action::Continue)
            }
            _ => Ok(Action::Continue),
        }
    }
}

fn block<B: Backend>(device: &DeviceOf<B>, dtype: DType, seed: u64) -> Result<TestBlock<TensorOf<B>>> {
    small(&mut Lab::<B>::new(device, dtype, seed), 2)
}

/// With `Replace`, the sublayer does not run. If it is replaced by its own output, nothing changes.
pub fn a_kept_output_stands_for_its_sublayer<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = block::<B>(device, dtype, 21)?;
    let whole = Array::read(&block.run(&mut Unpruned)?)?;
    for layer in 0..2 {
        for sub in [Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward] {
            let mut keeper = Keeper::new(sub, layer);
            assert_exact(&block.run(&mut keeper)?, &whole, "while it is kept");
            assert_eq!((keeper.attended, keeper.asked), (4, 4));
            (keeper.gives, keeper.attended, keeper.asked) = (true, 0, 0);
            assert_exact(&block.run(&mut keeper)?, &whole, &format!("{sub:?} of layer {layer} is given"));
            let ran = if sub == Sublayer::FeedForward { 4 } else { 3 };
            assert_eq!((keeper.attended, keeper.asked), (ran, ran), "{sub:?} of layer {layer}");
            // another output is added as it is
            keeper.kept = keeper.kept.map(|kept| kept.affine(0.0, 0.0)).transpose()?;
            let without = block.run(&mut keeper)?;
            let off = crate::tolerance::relative_l2(&Array::read(&without)?.data, &whole.data);
            assert!(off > 1e-3, "zeros in the place of {sub:?} of layer {layer} change nothing");
        }
    }
    Ok(())
}

/// An output that does not fit the stream is an error. So is an output at an event where nothing is about to run.
pub fn outputs_in_place_must_fit<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    struct Answers<T>(&'static str, T);
    impl<T: AttentionOps> TokenReducer<T> for Answers<T> {
        fn on_event(&mut self, _site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
            let name = match event {
                Event::LayerEnter { .. } => "enter",
                Event::Before { .. } => "before",
                Event::Attended { .. } => "attended",
                Event::After { .. } => "after",
                Event::BlockExit { .. } => "exit",
                _ => "other",
            };
            Ok(if name == self.0 { Action::Replace(self.1.clone()) } else { Action::Continue })
        }
    }
    let block = block::<B>(device, dtype, 22)?;
    for event in ["enter", "attended", "after", "exit"] {
        let error = rejects(event, || block.run(&mut Answers(event, block.hidden.on.clone())));
        assert!(matches!(error, Error::Plugin { .. }), "{event}: {error}");
    }
    for shape in [[2, 34, 16], [1, 35, 16], [2, 35, 8]] {
        let wrong = TensorOf::<B>::full(0.0, &shape, dtype, device)?;
        let error =
            rejects("an output that does not fit", || block.run(&mut Answers("before", wrong.clone())));
        assert!(matches!(error, Error::Shape { .. }), "{shape:?}: {error}");
    }
    Ok(())
}

/// Records nests. It may supply the output of one, before it runs or after.
struct Nests<T> {
    gives: Option<(NestId, T)>,
    instead: Option<(NestId, T)>,
    seen: Vec<String>,
}

impl<T: AttentionOps> TokenReducer<T> for Nests<T> {
    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        if let Event::BlockExit { .. } = event {
            self.seen.push(format!("block {}", site.block));
        }
        Ok(Action::Continue)
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, _hidden: &T) -> Result<Option<T>> {
        self.seen.push(format!("enter {}", site.nest.0));
        Ok(self.gives.clone().filter(|(nest, _)| *nest == site.nest).map(|(_, output)| output))
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, _output: &T) -> Result<Option<T>> {
        self.seen.push(format!("leave {}", site.nest.0));
        Ok(self.instead.clone().filter(|(nest, _)| *nest == site.nest).map(|(_, output)| output))
    }
}

/// Nests are reported in the order of their nesting. If the output of a nest is supplied before it, nothing in it runs.
/// An output supplied after it replaces its own.
pub fn nests_enclose_each_other<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = block::<B>(device, dtype, 23)?;
    let (step, rows) = (first_step(10), Row::singles(2));
    let run = |reducer: &mut dyn TokenReducer<TensorOf<B>>| {
        let site = |depth: usize| NestSite { nest: NestId(depth), step, rows: &rows };
        let input = block.hidden.on.clone();
        nest(reducer, &site(0), input, |reducer, hidden| {
            nest(reducer, &site(1), hidden, |reducer, _| block.run_at(reducer, &rows, step))?.affine(2.0, 0.0)
        })
    };
    let double = Array::read(&block.run(&mut Unpruned)?.affine(2.0, 0.0)?)?;
    assert_exact(&run(&mut Unpruned)?, &double, "nests around a block");
    let given = |nest: Option<usize>, ran: Option<usize>| -> Result<_> {
        let ones = block.hidden.on.affine(0.0, 1.0)?;
        let of = |nest: Option<usize>| nest.map(|nest| (NestId(nest), ones.clone()));
        let mut nests = Nests { gives: of(nest), instead: of(ran), seen: Vec::new() };
        let output = run(&mut nests)?;
        Ok((output, nests.seen.join(", ")))
    };
    let ones = Array::read(&block.hidden.on.affine(0.0, 1.0)?)?;
    let twos = Array::read(&block.hidden.on.affine(0.0, 2.0)?)?;
    let whole = "enter 0, enter 1, block mid.0, leave 1, leave 0";
    for (nest, ran, expected, seen) in [
        (None, None, &double, whole),
        (Some(1), None, &twos, "enter 0, enter 1, leave 0"),
        (Some(0), None, &ones, "enter 0"),
        (None, Some(1), &twos, whole),
        (None, Some(0), &ones, whole),
    ] {
        let (output, got) = given(nest, ran)?;
        assert_chain_close(&output, expected, dtype, seen);
        assert_eq!(got, seen);
    }
    Ok(())
}
