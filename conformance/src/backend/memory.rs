//! Checks of what AT-EDM remembers between evaluations.

use atedm_core::at_edm::{AtEdmConfig, Parts};
use atedm_core::plugin::{BuildContext, MaskEntry, MaskRecorder, Row, Step};
use atedm_core::{AttentionOps, Backend, DType, DeviceOf, Result};

use super::block::{TestBlock, small};
use super::support::Lab;
use crate::host::Array;
use crate::tolerance::assert_chain_arrays;

/// Runs a block for this many steps under one method. Returns the decision of the last step and its output.
fn last_of<T: AttentionOps>(
    block: &TestBlock<T>,
    config: &AtEdmConfig,
    steps: usize,
) -> Result<(MaskEntry, Array)> {
    let recorder = MaskRecorder::shared();
    let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
    let mut method = config.build(&context, &Parts::with_builtins())?;
    let rows = Row::singles(block.hidden.host.shape[0]);
    let mut output = None;
    for index in 0..steps {
        let step = Step { index, total: 10, evaluation: index, sigma: 1.0, timestep: 999.0 };
        output = Some(Array::read(&block.run_at(&mut method, &rows, step)?)?);
    }
    let masks = recorder.lock().unwrap().take();
    let (_, last) = masks.iter().find(|(key, _)| key.step == steps - 1).expect("a decision at the last step");
    Ok((last.clone(), output.expect("a step")))
}

fn config(max_iterations: usize) -> AtEdmConfig {
    AtEdmConfig { schedule: "constant".into(), epsilon: 0.0, max_iterations, ..AtEdmConfig::default() }
}

/// A warm start: one vote at each of three evaluations of the same tokens equals three votes at once.
pub fn warm_votes_add_up<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 1), 2)?;
    let (warm, _) = last_of(&block, &AtEdmConfig { warm_start: true, ..config(1) }, 3)?;
    let (cold, _) = last_of(&block, &config(3), 1)?;
    let (once, _) = last_of(&block, &config(1), 1)?;
    let scores = |entry: &MaskEntry| {
        let values = entry.scores.concat().into_iter().map(f64::from).collect();
        Array::new(&[2, 35], values)
    };
    // recorded scores are f32
    let recorded = if dtype == DType::F64 { DType::F32 } else { dtype };
    assert_chain_arrays(&scores(&warm), &scores(&cold), recorded, "three votes");
    assert_eq!((warm.votes, cold.votes), (1, 3));
    assert!(scores(&warm) != scores(&once), "the memory counts");
    Ok(())
}

/// `rescore_every` evaluations reuse a kept set and the rows that similarity copy takes.
pub fn kept_sets_serve_several_evaluations<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let block = small(&mut Lab::<B>::new(device, dtype, 2), 2)?;
    let every_step = last_of(&block, &config(2), 1)?;
    let serving = AtEdmConfig { rescore_every: 3, ..config(2) };
    let (first, output) = last_of(&block, &serving, 1)?;
    assert_eq!((&first.kept, first.votes), (&every_step.0.kept, 2));
    for steps in [2, 3] {
        let (again, same) = last_of(&block, &serving, steps)?;
        assert_eq!((&again.kept, again.votes), (&first.kept, 0), "step {steps} casts no vote");
        assert_chain_arrays(&same, &output, dtype, "the same tokens from the same sources");
    }
    let (anew, _) = last_of(&block, &serving, 4)?;
    assert_eq!((&anew.kept, anew.votes), (&first.kept, 2), "the fourth scores anew");
    assert_chain_arrays(&output, &every_step.1, dtype, "the first of three");
    Ok(())
}
