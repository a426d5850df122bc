//! A reducer around another one: what it does not write itself reaches the inner one.

#![cfg(feature = "reference")]
// helpers outside `#[test]` functions are tests, too
#![allow(clippy::unwrap_used)]

use atedm_core::plugin::{
    Action, BlockId, Event, Grid, NestId, NestSite, Row, Run, Site, Step, Sublayer, TokenReducer, Unpruned,
};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, GraphRequest, Result, Tensor};

const STEP: Step = Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 };

fn tensor() -> NdTensor {
    NdTensor::full(1.0, &[1, 4, 2], DType::F32, &NdDevice).unwrap()
}

/// A method in which no function answers as its default does.
#[derive(Default)]
struct Answers {
    told: Vec<&'static str>,
}

impl TokenReducer<NdTensor> for Answers {
    fn begin_run(&mut self, _: &Run<'_>) -> Result<()> {
        self.told.push("begin_run");
        Ok(())
    }
    fn wants_guidance(&mut self, _: &Step) -> bool {
        false
    }
    fn begin_step(&mut self, _: &Step, _: &[Row]) -> Result<()> {
        self.told.push("begin_step");
        Ok(())
    }
    fn wants(&mut self, _: &Site<'_>, _: Sublayer) -> Result<GraphRequest<NdTensor>> {
        Ok(GraphRequest::Stored)
    }
    fn on_event(&mut self, _: &Site<'_>, _: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
        Ok(Action::Replace(tensor()))
    }
    fn enter_nest(&mut self, _: &NestSite<'_>, hidden: &NdTensor) -> Result<Option<NdTensor>> {
        Ok(Some(hidden.clone()))
    }
    fn leave_nest(&mut self, _: &NestSite<'_>, output: &NdTensor) -> Result<Option<NdTensor>> {
        Ok(Some(output.clone()))
    }
    fn end_step(&mut self, _: &NdTensor) -> Result<()> {
        self.told.push("end_step");
        Ok(())
    }
}

/// A wrapper that does nothing itself.
struct Around<R>(R);

impl<R: TokenReducer<NdTensor>> TokenReducer<NdTensor> for Around<R> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<NdTensor>> {
        Some(&mut self.0)
    }
}

/// Calls every function; says which of the five that answer did so as [`Answers`] does.
fn answers(reducer: &mut dyn TokenReducer<NdTensor>) -> [bool; 5] {
    let (rows, hidden) = (Row::singles(1), tensor());
    let (block, grid) = (BlockId::whole(), Grid::new(2, 2));
    let site =
        Site { block, layer: 0, depth: 1, step: STEP, grid, tokens: 4, protected: (0, 0), rows: &rows };
    let nest = NestSite { nest: NestId::EVALUATION, step: STEP, rows: &rows };
    reducer.begin_run(&Run::new(1, 0, &rows)).unwrap();
    let unguided = !reducer.wants_guidance(&STEP);
    reducer.begin_step(&STEP, &rows).unwrap();
    let wants = reducer.wants(&site, Sublayer::SelfAttention).unwrap();
    let action = reducer.on_event(&site, Event::LayerEnter { hidden: &hidden }).unwrap();
    let entered = reducer.enter_nest(&nest, &hidden).unwrap();
    let left = reducer.leave_nest(&nest, &hidden).unwrap();
    reducer.end_step(&hidden).unwrap();
    let wants = matches!(wants, GraphRequest::Stored);
    [unguided, wants, matches!(action, Action::Replace(_)), entered.is_some(), left.is_some()]
}

#[test]
fn a_wrapper_passes_everything_on() {
    let mut around = Around(Around(Answers::default()));
    assert_eq!(answers(&mut around), [true; 5]);
    assert_eq!(around.0.0.told, ["begin_run", "begin_step", "end_step"]);
    assert_eq!(answers(&mut Around(Unpruned)), [false; 5]);
}
