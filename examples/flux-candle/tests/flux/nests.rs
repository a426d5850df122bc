//! The nests that the model names.

use std::collections::BTreeMap;

use atedm_candle::CandleTensor;
use atedm_core::Result;
use atedm_core::plugin::{
    Action, BuildContext, Event, NestId, NestSite, Registry, Row, Run, Site, Step, TokenReducer,
};
use example_flux_candle::{plain, reduced};
use serde_json::json;

use crate::cases::{Method, STEP, assert_same, relative};
use crate::fixture::Fixture;

/// Keeps what nests gave, and gives it again in place of one of them.
#[derive(Default)]
struct Keeper {
    kept: BTreeMap<NestId, CandleTensor>,
    again: Option<NestId>,
    entered: Vec<usize>,
    blocks: Vec<String>,
}

impl TokenReducer<CandleTensor> for Keeper {
    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, CandleTensor>) -> Result<Action<CandleTensor>> {
        if let Event::BlockExit { .. } = event {
            self.blocks.push(site.block.name());
        }
        Ok(Action::Continue)
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, _: &CandleTensor) -> Result<Option<CandleTensor>> {
        self.entered.push(site.nest.0);
        Ok(self.kept.get(&site.nest).filter(|_| self.again == Some(site.nest)).cloned())
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &CandleTensor) -> Result<Option<CandleTensor>> {
        self.kept.insert(site.nest, output.clone());
        Ok(None)
    }
}

#[test]
fn nest_i_is_all_blocks_from_block_i_on() -> candle_core::Result<()> {
    let Fixture { model, mut inputs, .. } = Fixture::read()?;
    let mut keeper = Keeper::default();
    let whole = reduced::forward(&model, &inputs, &mut keeper, &STEP)?;
    assert_eq!((&*keeper.entered, keeper.blocks.len()), (&[0, 1, 2][..], 3));
    for (nest, runs) in [(0, &[][..]), (1, &["double.0"]), (2, &["double.0", "double.1"])] {
        keeper.again = Some(NestId(nest));
        keeper.blocks.clear();
        assert_same(
            &reduced::forward(&model, &inputs, &mut keeper, &STEP)?,
            &whole,
            "an output given again",
        )?;
        assert_eq!(keeper.blocks, runs);
    }
    // the next step: what was kept stands for the rest, and shows
    inputs.time = (inputs.time * 0.9)?;
    let again = reduced::forward(&model, &inputs, &mut keeper, &STEP)?;
    let next = plain::forward(&model, &inputs)?;
    let distance = relative(&again, &next)?;
    println!("nest 2 of the step before: {distance:.1e} from the whole");
    assert!(distance > 1e-3 && distance < 1.0, "{distance:e}");
    Ok(())
}

#[test]
fn a_first_block_cache_leaves_out_all_but_the_first_layer() -> candle_core::Result<()> {
    let Fixture { model, mut inputs, .. } = Fixture::read()?;
    let whole = plain::forward(&model, &inputs)?;
    let mut registry = Registry::with_builtins();
    atedm_reuse::register(&mut registry).unwrap();
    let next = Step { index: STEP.index + 1, evaluation: STEP.evaluation + 1, ..STEP };
    let time = (&inputs.time * 0.99)?;
    for (threshold, blocks) in [(0.0, 6), (1e3, 4)] {
        inputs.time = time.clone();
        let options = json!({"threshold": threshold});
        let mut inner = registry.build("first-block-cache", &options, &BuildContext::default()).unwrap();
        inner.begin_run(&Run { first: STEP.index, ..Run::new(STEP.total, 0, &Row::singles(2)) }).unwrap();
        let mut counted = Counted { inner, blocks: 0 };
        counted.begin_step(&STEP, &Row::singles(2)).unwrap();
        let first = Fixture::read()?.inputs;
        assert_same(&reduced::forward(&model, &first, &mut counted, &STEP)?, &whole, "the first step")?;
        counted.begin_step(&next, &Row::singles(2)).unwrap();
        let output = reduced::forward(&model, &inputs, &mut counted, &next)?;
        let expected = plain::forward(&model, &inputs)?;
        let distance = relative(&output, &expected)?;
        println!(
            "threshold {threshold}: {} blocks in two steps, {distance:.1e} from the whole",
            counted.blocks
        );
        assert_eq!(counted.blocks, blocks);
        assert!(
            if threshold == 0.0 { distance == 0.0 } else { distance > 0.0 && distance < 0.5 },
            "{distance:e}"
        );
    }
    Ok(())
}

/// Counts the blocks that run.
struct Counted {
    inner: Method,
    blocks: usize,
}

impl TokenReducer<CandleTensor> for Counted {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<CandleTensor>> {
        Some(self.inner.as_mut())
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, CandleTensor>) -> Result<Action<CandleTensor>> {
        self.blocks += usize::from(matches!(event, Event::BlockExit { .. }));
        self.inner.on_event(site, event)
    }
}
