//! A small model, and what makes it run through a life.
//!
//! Its three blocks lie in nests: nest 0 holds all of them, nest 1 the last two, nest 2 the last. What a nest gives is
//! what its blocks gave, one behind the other along the tokens.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use atedm_core::plugin::{
    BlockId, BlockShape, Grid, NestId, NestSite, Row, Run, Stage, Step, Sublayer, TokenReducer, nest,
};
use atedm_core::{Backend, DType, DeviceOf, Error, Result, Tensor};

use super::commands::{Command, Halves, Picture};
use super::watch::{Fact, Places, Tamper, Watched};
use crate::backend::block::{Gathered, Probe, TestBlock, Visit};
use crate::backend::support::{Lab, TensorOf};
use crate::host::{Array, Draws};
use crate::oracle;
use crate::trace::TokenTrace;

/// Channels of the stream and of the text, and text tokens.
const CHANNELS: usize = 8;
const TEXT: [usize; 2] = [3, 4];

/// A model without what is not attention: three blocks of a U-Net at two levels, of two, three and one layers, or two runs
/// of a transformer.
pub(super) struct Machine<'a, B: Backend> {
    blocks: Vec<TestBlock<TensorOf<B>>>,
    device: &'a DeviceOf<B>,
    dtype: DType,
    probes: bool,
}

/// What a sublayer gathered of a table; `None` where it was refused.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    pub(super) sub: Sublayer,
    pub(super) queries: Option<Array>,
    pub(super) keys: Option<Option<Array>>,
}

impl Rows {
    /// Only a plugin error is a refusal.
    fn read<T: Tensor>(gathered: Gathered<T>) -> Result<Self> {
        let read = |rows: Result<T>| match rows {
            Ok(rows) => Array::read(&rows).map(Some),
            Err(Error::Plugin { .. }) => Ok(None),
            Err(other) => Err(other),
        };
        let Gathered { sub, queries, keys, .. } = gathered;
        Ok(Self { sub, queries: read(queries)?, keys: keys.map(read).transpose()? })
    }
}

/// One evaluation of all blocks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Evaluation {
    /// Of which run.
    pub(super) run: usize,
    pub(super) step: Step,
    /// Whether it had a row for each half of guidance.
    pub(super) guided: bool,
    /// Every block.
    pub(super) blocks: Vec<BlockShape>,
    /// What every sublayer gathered of a table, in order.
    pub(super) gathered: Vec<Rows>,
    /// What every block gave each row, `[tokens, channels]`.
    pub(super) outputs: Vec<BTreeMap<Row, Array>>,
    /// The tokens that every sublayer ran on.
    pub(super) trace: TokenTrace,
    /// The nests that did not run.
    pub(super) replaced: BTreeSet<NestId>,
}

/// What came of a life.
#[derive(Debug, Default)]
pub(super) struct Played {
    pub(super) evaluations: Vec<Evaluation>,
    /// Every reduction that was answered.
    pub(super) facts: Vec<Fact>,
    /// What every sublayer ran on, in order.
    pub(super) places: Vec<Places>,
    /// The error that ended it early.
    pub(super) failure: Option<Error>,
}

impl Played {
    /// The evaluations and what every sublayer ran on; also where the method refused in one line what a U-Net has not.
    pub(super) fn unless_refused(self) -> Result<(Vec<Evaluation>, Vec<Places>)> {
        match self.failure {
            None => {}
            Some(error @ (Error::Config { .. } | Error::Plugin { .. })) => {
                let said = error.to_string();
                assert!(!said.contains('\n'), "refused in several lines: {said}");
            }
            Some(other) => return Err(other),
        }
        Ok((self.evaluations, self.places))
    }

    /// The evaluations of the last run.
    pub(super) fn last_run(&self) -> &[Evaluation] {
        let last = self.evaluations.last().map(|evaluation| evaluation.run);
        let start = self.evaluations.partition_point(|evaluation| Some(evaluation.run) < last);
        &self.evaluations[start..]
    }
}

impl<'a, B: Backend> Machine<'a, B> {
    pub(super) fn new(device: &'a DeviceOf<B>, dtype: DType) -> Result<Self> {
        let mut lab = Lab::<B>::new(device, dtype, 31);
        let places = [
            (BlockId { stage: Stage::Down, stage_index: 0, index: 1, count: 2, level: 0 }, 2),
            (BlockId { stage: Stage::Mid, stage_index: 0, index: 0, count: 1, level: 1 }, 3),
            (BlockId { stage: Stage::Up, stage_index: 1, index: 0, count: 2, level: 0 }, 1),
        ];
        let block = |(id, depth): (BlockId, usize)| -> Result<_> {
            let shape = oracle::BlockShape {
                depth,
                heads: 2,
                channels: CHANNELS,
                text: TEXT[0],
                text_tokens: TEXT[1],
            };
            // the stream is that of every visit
            let block = TestBlock::new(&mut lab, shape, 1, Grid::new(1, 1))?;
            Ok(TestBlock { id, ..block })
        };
        Ok(Self {
            blocks: places.into_iter().map(block).collect::<Result<_>>()?,
            device,
            dtype,
            probes: false,
        })
    }

    /// A transformer: two layers of joint attention, then three of parallel sublayers.
    pub(super) fn of_transformer(device: &'a DeviceOf<B>, dtype: DType) -> Result<Self> {
        let unet = Self::new(device, dtype)?;
        let forms: [(&str, &'static [Sublayer]); 2] = [
            ("double", &[Sublayer::JointAttention, Sublayer::FeedForward]),
            ("single", &[Sublayer::Parallel]),
        ];
        let blocks =
            unet.blocks.into_iter().zip(forms).map(|(block, (stage, sublayers))| {
                Ok(block.made_of(BlockId::named(stage, 0, 1)?, sublayers))
            });
        Ok(Self { blocks: blocks.collect::<Result<_>>()?, device, dtype, probes: false })
    }

    /// The same model, which gathers a per-token table in every sublayer.
    pub(super) fn probing(self) -> Self {
        Self { probes: true, ..self }
    }

    /// The method on a whole life. An error ends it; that of a [`Command::Cancel`] is expected.
    pub(super) fn play(&self, method: &mut dyn TokenReducer<TensorOf<B>>, life: &[Command]) -> Played {
        self.watch(Watched::new(method), life)
    }

    /// [`Machine::play`] with every reduction tried out.
    pub(super) fn try_out(&self, method: &mut dyn TokenReducer<TensorOf<B>>, life: &[Command]) -> Played {
        self.watch(Watched::new(method).trying_reductions(), life)
    }

    /// [`Machine::play`] where one event tells of wrong tensors.
    pub(super) fn mislead(
        &self,
        method: &mut dyn TokenReducer<TensorOf<B>>,
        life: &[Command],
        tamper: Tamper,
    ) -> Played {
        self.watch(Watched::new(method).misled(tamper), life)
    }

    fn watch(&self, mut watched: Watched<'_, TensorOf<B>>, life: &[Command]) -> Played {
        let mut evaluations = Vec::new();
        let failure = self.run(&mut watched, life, &mut evaluations).err();
        Played { evaluations, facts: watched.facts, places: watched.places, failure }
    }

    fn run(
        &self,
        watched: &mut Watched<'_, TensorOf<B>>,
        life: &[Command],
        evaluations: &mut Vec<Evaluation>,
    ) -> Result<()> {
        let mut picture: Option<&Picture> = None;
        // evaluations made of the run; `None` where it must begin first
        let mut made: Option<usize> = None;
        let mut runs = 0;
        for command in life {
            if let Command::Begin(next) = command {
                (picture, made) = (Some(next), None);
            }
            let Some(picture) = picture else { continue };
            let evaluation = match made.filter(|&made| picture.step(made).is_some()) {
                Some(evaluation) => evaluation,
                None => {
                    let rows = picture.rows(picture.halves());
                    let run = Run::new(picture.steps, picture.seed, &rows);
                    watched.begin_run(&Run { first: picture.first, ..run })?;
                    runs += 1;
                    0
                }
            };
            made = Some(evaluation);
            let stops_in = match command {
                Command::Begin(_) => continue,
                Command::Evaluate => None,
                Command::Cancel { block, layer, sub } => Some((*block, *layer, *sub)),
            };
            match self.evaluate(watched, picture, evaluation, stops_in) {
                Err(Error::Cancelled) if stops_in.is_some() => made = None,
                result => {
                    evaluations.push(Evaluation { run: runs, ..result? });
                    made = Some(evaluation + 1);
                }
            }
        }
        Ok(())
    }

    fn evaluate(
        &self,
        watched: &mut Watched<'_, TensorOf<B>>,
        picture: &Picture,
        evaluation: usize,
        stops_in: Option<(usize, usize, Sublayer)>,
    ) -> Result<Evaluation> {
        let step = picture.step(evaluation).ok_or_else(|| Error::config("steps", "the run is over"))?;
        // without guidance the negative rows are the batch, as in a pipeline
        let halves = match picture.guided && !watched.wants_guidance(&step) {
            true => Halves::Negative,
            false => picture.halves(),
        };
        let rows = picture.rows(halves);
        watched.begin_step(&step, &rows)?;
        let mut all_gathered = Vec::new();
        // for each block what every row gave
        let mut outputs: Vec<BTreeMap<Row, Array>> = vec![BTreeMap::new(); self.blocks.len()];
        for batch in picture.batches(halves) {
            let gathered = RefCell::new(Vec::new());
            let visits = Visits {
                machine: self,
                picture,
                evaluation,
                step,
                rows: &batch,
                stops_in,
                gathered: &gathered,
            };
            let all = Array::read(&visits.nest(0, watched)?)?;
            all_gathered.extend(gathered.take());
            let rows = all.data.len() / batch.len();
            for (&row, mut data) in batch.iter().zip(all.data.chunks(rows)) {
                for (index, outputs) in outputs.iter_mut().enumerate() {
                    let shape = [visits.tokens(index), CHANNELS];
                    let (block, rest) = data.split_at(shape[0] * CHANNELS);
                    outputs.insert(row, Array::new(&shape, block.to_vec()));
                    data = rest;
                }
            }
        }
        if let Some(last) = outputs.last() {
            watched.end_step(&self.prediction(&rows, last)?)?;
        }
        let block = |block: &TestBlock<TensorOf<B>>| {
            let grid = at_level(picture.grid, block.id.level);
            BlockShape::new(block.id, block.layers.len(), grid).made_of(block.sublayers)
        };
        let blocks = self.blocks.iter().map(block).collect();
        let gathered = all_gathered.into_iter().map(Rows::read).collect::<Result<_>>()?;
        let (trace, replaced) = (std::mem::take(&mut watched.trace), std::mem::take(&mut watched.replaced));
        let guided = halves == Halves::Both;
        Ok(Evaluation { run: 0, step, guided, blocks, outputs, gathered, trace, replaced })
    }

    /// A table in which token `i` has the row `[i, −i]`.
    fn table(&self, tokens: usize) -> Result<TensorOf<B>> {
        table(tokens).upload(self.dtype, self.device)
    }

    /// What stands for the model's output `[rows, tokens, channels, 1]`, in the order of the run's rows.
    fn prediction(&self, rows: &[Row], outputs: &BTreeMap<Row, Array>) -> Result<TensorOf<B>> {
        let of = |row: &Row| outputs.get(row).map(|output| output.data.clone());
        let data: Vec<f64> = rows.iter().filter_map(of).flatten().collect();
        let tokens = data.len() / rows.len() / CHANNELS;
        Array::new(&[rows.len(), tokens, CHANNELS, 1], data).upload(self.dtype, self.device)
    }

    /// `[rows, tokens, channels]`, every row drawn for itself: it is the same whatever stands beside it.
    fn stream(
        &self,
        seed: u64,
        rows: &[Row],
        (evaluation, place): (usize, usize),
        [tokens, channels]: [usize; 2],
    ) -> Result<TensorOf<B>> {
        let data = rows.iter().flat_map(|row| {
            let mut key = Draws::new(seed ^ (row.image << 32) ^ ((row.branch as u64) << 24));
            let key = key.bits() ^ ((evaluation as u64) << 8) ^ place as u64;
            Draws::new(key).normals(&[tokens, channels]).data
        });
        let stream = Array::new(&[rows.len(), tokens, channels], data.collect());
        stream.upload(self.dtype, self.device)
    }
}

/// One evaluation of one batch.
struct Visits<'a, 'm, B: Backend> {
    machine: &'a Machine<'m, B>,
    picture: &'a Picture,
    evaluation: usize,
    step: Step,
    rows: &'a [Row],
    /// The block, the layer and the sublayer in which the model fails.
    stops_in: Option<(usize, usize, Sublayer)>,
    /// What the sublayers gathered of a table.
    gathered: &'a RefCell<Vec<Gathered<TensorOf<B>>>>,
}

impl<B: Backend> Visits<'_, '_, B> {
    fn grid(&self, index: usize) -> Grid {
        at_level(self.picture.grid, self.machine.blocks[index].id.level)
    }

    /// Tokens of a block's stream.
    fn tokens(&self, index: usize) -> usize {
        self.grid(index).tokens() + self.picture.protected.1
    }

    /// Nest `index`: every block from this one on.
    fn nest(&self, index: usize, reducer: &mut dyn TokenReducer<TensorOf<B>>) -> Result<TensorOf<B>> {
        let (machine, picture) = (self.machine, self.picture);
        let shape = [self.tokens(index), CHANNELS];
        let hidden = machine.stream(picture.seed, self.rows, (self.evaluation, index), shape)?;
        let site = NestSite { nest: NestId(index), step: self.step, rows: self.rows };
        let output = nest(reducer, &site, hidden, |reducer, hidden| {
            let output = self.block(index, &hidden, reducer)?;
            match index + 1 < machine.blocks.len() {
                true => TensorOf::<B>::concat(&[&output, &self.nest(index + 1, reducer)?], 1),
                false => Ok(output),
            }
        })?;
        let tokens = (index..machine.blocks.len()).map(|index| self.tokens(index)).sum();
        let (expected, got) = ([self.rows.len(), tokens, CHANNELS], output.shape());
        match got == expected {
            true => Ok(output),
            false => Err(Error::shape("the output of a nest", format!("{expected:?}"), got)),
        }
    }

    fn block(
        &self,
        index: usize,
        hidden: &TensorOf<B>,
        reducer: &mut dyn TokenReducer<TensorOf<B>>,
    ) -> Result<TensorOf<B>> {
        let (machine, picture) = (self.machine, self.picture);
        let block = &machine.blocks[index];
        let stops_in = self
            .stops_in
            .filter(|(stops, ..)| stops % machine.blocks.len() == index)
            .map(|(_, layer, sub)| (layer % block.layers.len(), sub));
        let text = &machine.stream(picture.seed, self.rows, (0, 100), [TEXT[1], TEXT[0]])?;
        let (start, count) = picture.protected;
        let (rows, step, protected) = (self.rows, self.step, (start, start + count));
        let probe = Probe::new(machine.table(self.tokens(index))?);
        let visit = Visit {
            hidden,
            text,
            grid: self.grid(index),
            rows,
            step,
            protected,
            stops_in,
            probe: machine.probes.then_some(&probe),
        };
        let output = block.visit(reducer, visit)?;
        self.gathered.borrow_mut().extend(probe.gathered());
        Ok(output)
    }
}

/// A row `[i, −i]` for every token `i`.
pub(super) fn table(tokens: usize) -> Array {
    Array::from_fn(&[tokens, 2], |at| if at[1] == 0 { at[0] as f64 } else { -(at[0] as f64) })
}

/// A grid some levels down.
fn at_level(grid: Grid, level: usize) -> Grid {
    let halved = |Grid { frames, height, width }: Grid, _| {
        Grid::of_frames(frames, height.div_ceil(2), width.div_ceil(2))
    };
    (0..level).fold(grid, halved)
}
