//! What a pass requires of a model, namely that it reaches its exit, and what it gives: the places of tokens.

#![cfg(feature = "reference")]
// helpers outside `#[test]` functions belong to the tests, too
#![allow(clippy::unwrap_used)]

use atedm_core::backend::Partition;
use atedm_core::plugin::{
    Action, AttentionOutput, BlockId, BlockPass, BlockShape, Event, Grid, IndexPlan, LayerTokens, MethodPlan,
    ModelShape, Options, Reduction, Reductions, Registry, Row, Site, Step, StepOf, Sublayer, TokenReducer,
    Unpruned,
};
use atedm_core::reference::{NdDevice, NdIndices, NdTensor};
use atedm_core::{DType, Error, Indices, Result, Tensor};

const STEP: Step = Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 };

/// Keeps tokens 1 and 3 of four when the block begins. If it mixes, it keeps only their mean.
struct Keeps {
    mixes: bool,
}

#[derive(Debug, Clone)]
struct Mean;

impl Reduction<NdTensor> for Mean {
    fn kept(&self) -> usize {
        1
    }
    fn shrink(&self, full: &NdTensor) -> Result<NdTensor> {
        full.mean(1)
    }
    fn restore(&self, reduced: &NdTensor) -> Result<NdTensor> {
        NdTensor::concat(&[reduced; 4], 1)
    }
    fn name(&self) -> &str {
        "the mean"
    }
    fn clone_box(&self) -> Box<dyn Reduction<NdTensor>> {
        Box::new(self.clone())
    }
}

impl TokenReducer<NdTensor> for Keeps {
    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
        if !matches!(event, Event::LayerEnter { .. }) || site.layer > 0 {
            return Ok(Action::Continue);
        }
        if self.mixes {
            return Ok(Action::UntilExit(Box::new(Mean)));
        }
        let partition = Partition::from_kept(&[vec![1, 3]], 4, &NdDevice)?;
        let donors = NdIndices::from_host(&[vec![0, 1]], &NdDevice)?;
        Ok(Action::UntilExit(Box::new(IndexPlan::new(&partition, &donors)?)))
    }
}

fn stream() -> NdTensor {
    NdTensor::from_f32(&[0.0, 1.0, 2.0, 3.0], &[1, 4, 1], DType::F32, &NdDevice).unwrap()
}

fn entered<'a>(method: &'a mut dyn TokenReducer<NdTensor>, rows: &'a [Row]) -> BlockPass<'a, NdTensor> {
    BlockPass::enter(method, &STEP, rows, BlockId::whole(), 1, Grid::new(2, 2))
}

fn same(x: &NdTensor) -> Result<NdTensor> {
    Ok(x.clone())
}

#[test]
#[cfg(debug_assertions)]
fn a_pass_that_forgets_its_exit_panics() {
    let forgets = |mut method: Keeps| {
        let rows = Row::singles(1);
        let mut pass = entered(&mut method, &rows);
        pass.layer(0, stream()).unwrap();
    };
    let panic = std::panic::catch_unwind(|| forgets(Keeps { mixes: false })).unwrap_err();
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(said.contains("mid.0 was dropped without `exit`"), "{said}");
}

/// A pass needs no exit if no token is missing or something failed.
#[test]
fn a_pass_that_failed_is_dropped_in_peace() {
    let rows = Row::singles(1);
    drop(entered(&mut Unpruned, &rows).layer(0, stream()).unwrap());
    let mut method = Keeps { mixes: false };
    let mut pass = entered(&mut method, &rows);
    let x = pass.layer(0, stream()).unwrap();
    let error = pass.feed_forward(x, same, |_| Err(Error::Cancelled)).unwrap_err();
    assert!(matches!(error, Error::Cancelled));
}

/// The place of every token at each point of a layer, from a table that holds the numbers of the tokens.
#[test]
fn every_closure_can_ask_where_its_tokens_stand() {
    let rows = Row::singles(1);
    let table = stream().reshape(&[4, 1]).unwrap();
    let mut method = Keeps { mixes: false };
    let mut pass = entered(&mut method, &rows);
    let places = |rows: NdTensor| rows.to_f32().unwrap();
    let x = pass.layer(0, stream()).unwrap();
    assert_eq!(places(pass.positions().rows(&table).unwrap()), [1.0, 3.0]);
    assert_eq!(pass.positions().indices().unwrap().unwrap().to_host().unwrap(), [[1, 3]]);
    let x = pass
        .parallel(x, same, |input| {
            assert_eq!(places(input.query_rows(&table)?), [1.0, 3.0]);
            assert_eq!(places(input.key_rows(&table)?), [1.0, 3.0]);
            let hidden = input.queries.clone();
            Ok(AttentionOutput { values: hidden.clone(), hidden, graph: None, first_vote: None })
        })
        .unwrap();
    let x = pass
        .feed_forward(x, same, |input| {
            assert_eq!(places(input.rows(&table)?), [1.0, 3.0]);
            same(input.tokens)
        })
        .unwrap();
    assert_eq!(pass.exit(x).unwrap().to_f32().unwrap(), [4.0, 4.0, 12.0, 12.0]);
    // while nothing is reduced the result is the table itself, whatever its shape
    let mut unpruned = Unpruned;
    let mut whole = entered(&mut unpruned, &rows);
    let x = whole.layer(0, stream()).unwrap();
    assert_eq!(whole.positions().rows(&table).unwrap().shape(), [4, 1]);
    whole.exit(x).unwrap();
}

#[test]
fn a_mixture_has_no_place_and_says_whose_it_is() {
    let rows = Row::singles(1);
    let mut method = Keeps { mixes: true };
    let mut pass = entered(&mut method, &rows);
    let x = pass.layer(0, stream()).unwrap();
    let table = stream().reshape(&[4, 1]).unwrap();
    let error = pass.feed_forward(x, same, |input| input.rows(&table)).unwrap_err().to_string();
    assert!(error.starts_with("plugin the mean: its tokens stand for no single positions"), "{error}");
}

#[derive(Debug)]
struct Mixing;

impl MethodPlan for Mixing {
    fn settings(&self) -> Options {
        Options::new()
    }
    fn tokens(&self, block: &BlockShape, _step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        Ok(Some(vec![block.layer(1); block.depth]))
    }
    fn gives_positions(&self) -> bool {
        false
    }
}

#[test]
fn a_model_that_needs_places_refuses_a_method_without() {
    let mut registry = Registry::<NdTensor>::with_builtins();
    registry
        .register_method("mixing", |_, _| Ok(Mixing), |_, _| Ok(Box::new(Keeps { mixes: true })))
        .unwrap();
    let shape = BlockShape::new(BlockId::named("single", 0, 1).unwrap(), 2, Grid::new(2, 2));
    let anywhere = ModelShape::new(vec![shape.made_of(&[Sublayer::Parallel])], 4);
    let rotary = ModelShape { needs_positions: true, ..anywhere.clone() };
    let describe = |name: &str, model: &ModelShape| {
        let facts = registry.catalogue().facts().of_model(model);
        registry.catalogue().describe(name, &Options::new(), &facts).map(drop)
    };
    describe("mixing", &anywhere).unwrap();
    describe("at-edm", &rotary).unwrap();
    let error = describe("mixing", &rotary).unwrap_err().to_string();
    assert!(error.starts_with("plugin mixing: leaves tokens that stand for no single places"), "{error}");
}

/// Two reductions of a stream: what was kept for every token is cut to the stream's tokens, and comes back from them.
#[test]
fn outputs_follow_all_reductions_of_the_stream() {
    let plan = |kept: &[u32], tokens: usize, donors: &[u32]| -> Box<dyn Reduction<NdTensor>> {
        let partition = Partition::from_kept(&[kept.to_vec()], tokens, &NdDevice).unwrap();
        let donors = NdIndices::from_host(&[donors.to_vec()], &NdDevice).unwrap();
        Box::new(IndexPlan::new(&partition, &donors).unwrap())
    };
    // token 0 goes and takes the value of token 3; then token 2 goes and takes that of token 1
    let made = [plan(&[1, 2, 3], 4, &[2]), plan(&[0, 2], 3, &[0])];
    let reductions = Reductions::new(&made);
    let small = reductions.shrink(&stream()).unwrap();
    assert_eq!(small.to_f32().unwrap(), [1.0, 3.0]);
    assert_eq!(reductions.restore_added(&small).unwrap().to_f32().unwrap(), [3.0, 1.0, 1.0, 3.0]);
    assert!(reductions.shrink(&small).is_err());
    let whole = Reductions::none();
    assert_eq!(whole.shrink(&small).unwrap().to_f32().unwrap(), [1.0, 3.0]);
    assert_eq!(whole.restore_added(&small).unwrap().to_f32().unwrap(), [1.0, 3.0]);
}
