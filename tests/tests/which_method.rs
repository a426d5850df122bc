//! The guide's page "Which method for which model" is made of the registry: every method runs on four small models.
//!
//! `ATEDM_WRITE_GUIDE=1 cargo test -p atedm-tests --test which_method` writes the page's tables anew.

// Helpers outside `#[test]` functions are tests, too.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use atedm_conformance::backend::block::TestBlock;
use atedm_conformance::backend::support::Lab;
use atedm_conformance::oracle;
use atedm_core::plugin::{
    BlockId, BlockShape, Branch, BuildContext, Grid, MethodPlan, ModelShape, NestId, NestShape, NestSite,
    Options, Registry, Row, Run, Site, Stage, Step, Sublayer, TokenReducer, Unpruned, nest,
};
use atedm_core::reference::{NdDevice, NdTensor, Reference64};
use atedm_core::{DType, GraphRequest, Result, Tensor};

const STEPS: usize = 50;
const BLOCKS: usize = 3;
const CHANNELS: usize = 16;
const START: &str = "<!-- tables: start -->\n";
const END: &str = "<!-- tables: end -->\n";

/// A kind of model.
struct Kind {
    title: &'static str,
    stages: [&'static str; BLOCKS],
    sublayers: &'static [Sublayer],
    grid: Grid,
    needs_positions: bool,
}

/// A U-Net's block, and the blocks of today's transformers.
const KINDS: [Kind; 4] = [
    Kind {
        title: "U-Net",
        stages: ["down", "mid", "up"],
        sublayers: &[Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward],
        grid: Grid::new(8, 8),
        needs_positions: false,
    },
    Kind {
        title: "MMDiT (joint attention)",
        stages: ["joint"; BLOCKS],
        sublayers: &[Sublayer::JointAttention, Sublayer::FeedForward],
        grid: Grid::new(8, 8),
        needs_positions: false,
    },
    Kind {
        title: "single stream, rotary",
        stages: ["single"; BLOCKS],
        sublayers: &[Sublayer::Parallel],
        grid: Grid::new(8, 8),
        needs_positions: true,
    },
    Kind {
        title: "video, rotary",
        stages: ["blocks"; BLOCKS],
        sublayers: &[Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward],
        grid: Grid::of_frames(2, 4, 8),
        needs_positions: true,
    },
];

impl Kind {
    fn id(&self, index: usize) -> BlockId {
        let stage = |stage| BlockId { stage, stage_index: 1, index: 0, count: 2, level: 1 };
        match self.stages[index] {
            "down" => BlockId { index: 1, ..stage(Stage::Down) },
            "mid" => BlockId { stage_index: 0, count: 1, ..stage(Stage::Mid) },
            "up" => stage(Stage::Up),
            name => BlockId::named(name, index, BLOCKS).unwrap(),
        }
    }

    fn shape(&self) -> ModelShape {
        let block = |index| {
            BlockShape::new(self.id(index), 3, self.grid).with_channels(CHANNELS).made_of(self.sublayers)
        };
        let nest = |first: usize| NestShape { blocks: first..BLOCKS, values: 64 };
        let mut shape = ModelShape::new((0..BLOCKS).map(block).collect(), STEPS);
        shape.nests = (0..BLOCKS).map(nest).collect();
        shape.timesteps = Some((0..STEPS).map(|index| step(index).timestep).collect());
        shape.needs_positions = self.needs_positions;
        shape
    }

    fn blocks(&self) -> Vec<TestBlock<NdTensor>> {
        let mut lab = Lab::<Reference64>::new(&NdDevice, DType::F64, 5);
        let shape = oracle::BlockShape { depth: 3, heads: 2, channels: CHANNELS, text: 12, text_tokens: 5 };
        let block = |index| {
            TestBlock::new(&mut lab, shape, 2, self.grid).unwrap().made_of(self.id(index), self.sublayers)
        };
        (0..BLOCKS).map(block).collect()
    }
}

fn step(index: usize) -> Step {
    let timestep = 999.0 - 20.0 * index as f64;
    Step { index, total: STEPS, evaluation: index, sigma: timestep / 100.0, timestep }
}

fn registry() -> Registry<NdTensor> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    atedm_reuse::register(&mut registry).unwrap();
    registry
}

fn describe(name: &str, model: &ModelShape) -> Result<Box<dyn MethodPlan>> {
    let registry = registry();
    let catalogue = registry.catalogue();
    catalogue.describe(name, &Options::new(), &catalogue.facts().of_model(model).with_rng("chacha"))
}

/// Listens to what a method asks for.
struct Spy {
    method: Box<dyn TokenReducer<NdTensor>>,
    wants_graph: bool,
}

impl TokenReducer<NdTensor> for Spy {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<NdTensor>> {
        Some(self.method.as_mut())
    }
    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<NdTensor>> {
        let wants = self.method.wants(site, sub)?;
        self.wants_graph |= !matches!(wants, GraphRequest::None);
        Ok(wants)
    }
}

/// Nest `index` and all that lie in it: every block from this one on, each fed by the one before it.
fn run_nest(
    blocks: &mut [TestBlock<NdTensor>],
    index: usize,
    hidden: NdTensor,
    (step, rows): (Step, &[Row]),
    reducer: &mut dyn TokenReducer<NdTensor>,
) -> Result<NdTensor> {
    let site = NestSite { nest: NestId(index), step, rows };
    nest(reducer, &site, hidden, |reducer, hidden| {
        blocks[index].hidden.on = hidden;
        let output = blocks[index].run_at(reducer, rows, step)?;
        match index + 1 < BLOCKS {
            true => run_nest(blocks, index + 1, output, (step, rows), reducer),
            false => Ok(output),
        }
    })
}

/// What the model gives at every step of a run. The stream changes a little from step to step, as latents do.
fn outputs(kind: &Kind, reducer: &mut dyn TokenReducer<NdTensor>) -> Result<Vec<Vec<f32>>> {
    let mut blocks = kind.blocks();
    let rows = [Branch::Uncond, Branch::Cond].map(|branch| Row { image: 0, branch });
    let first = blocks[0].hidden.on.clone();
    reducer.begin_run(&Run::new(STEPS, 0, &rows))?;
    let mut outputs = Vec::with_capacity(STEPS);
    for index in 0..STEPS {
        reducer.begin_step(&step(index), &rows)?;
        let hidden = first.affine(1.0 - 0.01 * index as f64, 0.0)?;
        let output = run_nest(&mut blocks, 0, hidden, (step(index), &rows), reducer)?;
        reducer.end_step(&output.reshape(&[2, kind.grid.tokens(), CHANNELS, 1])?)?;
        outputs.push(output.to_f32()?);
    }
    Ok(outputs)
}

/// What one method does on one kind of model, and whether it asks for attention's graph there.
fn outcome(name: &str, kind: &Kind, plain: &[Vec<f32>]) -> Result<(bool, bool)> {
    let plan = describe(name, &kind.shape())?;
    let method = registry().build_plan(name, plan.as_ref(), &BuildContext::default())?;
    let mut spy = Spy { method, wants_graph: false };
    let changed = outputs(kind, &mut spy)? != plain;
    Ok((changed, spy.wants_graph))
}

/// Methods that differ by their settings alone stand in one row.
fn families() -> Vec<(String, Vec<String>)> {
    let (registry, model) = (registry(), KINDS[0].shape());
    let mut families: Vec<(String, Vec<String>)> = Vec::new();
    for name in registry.catalogue().names() {
        let family = match describe(name, &model) {
            Ok(plan) => plan.family().unwrap_or(name).to_string(),
            // a preset's budget need not fit so small a model
            Err(_) => continue,
        };
        match families.iter_mut().find(|(known, _)| *known == family) {
            Some((_, names)) => names.push(name.to_string()),
            None => families.push((family, vec![name.to_string()])),
        }
    }
    families.retain(|(family, _)| family != "none");
    families
}

/// In a row, the first preset that acts on a U-Net stands for all.
fn tables() -> String {
    let plain: Vec<_> = KINDS.iter().map(|kind| outputs(kind, &mut Unpruned).unwrap()).collect();
    let families: Vec<(String, Vec<String>)> = families()
        .into_iter()
        .map(|(_, names)| {
            let acts = |name: &&String| matches!(outcome(name, &KINDS[0], &plain[0]), Ok((true, _)));
            (names.iter().find(acts).unwrap_or(&names[0]).clone(), names)
        })
        .collect();
    let mut notes: Vec<String> = Vec::new();
    let mut text = String::from("| method |");
    KINDS.iter().for_each(|kind| text += &format!(" {} |", kind.title));
    text += " asks for the attention graph | holds outputs from step to step |\n|---|";
    text += &"---|".repeat(KINDS.len() + 2);
    for (name, names) in &families {
        text +=
            &format!("\n| {} |", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
        let mut graph = false;
        for (kind, plain) in KINDS.iter().zip(&plain) {
            text += &match outcome(name, kind, plain) {
                Ok((true, wants)) => {
                    graph |= wants;
                    " yes |".to_string()
                }
                Ok((false, _)) => " no effect |".to_string(),
                Err(error) => {
                    let note = error.to_string();
                    let number = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
                        notes.push(note);
                        notes.len() - 1
                    });
                    format!(" refused ({}) |", number + 1)
                }
            };
        }
        let holds = describe(name, &KINDS[0].shape()).unwrap().memory(&KINDS[0].shape()) > 0;
        let said = |yes| if yes { "yes" } else { "no" };
        text += &format!(" {} | {} |", said(graph), said(holds));
    }
    text += "\n\n";
    for (number, note) in notes.iter().enumerate() {
        text += &format!("{}. `{note}`\n", number + 1);
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    text += "Can two methods stack on a U-Net? The row is the outer method, the column the inner one: `row+column`.\n\n|  |";
    families.iter().for_each(|(name, _)| text += &format!(" `{name}` |"));
    text += "\n|---|";
    text += &"---|".repeat(families.len());
    for (outer, _) in &families {
        text += &format!("\n| `{outer}` |");
        for (inner, _) in &families {
            let stacks = outer != inner && describe(&format!("{outer}+{inner}"), &KINDS[0].shape()).is_ok();
            text += if outer == inner {
                "  |"
            } else if stacks {
                " yes |"
            } else {
                " no |"
            };
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_guides_tables_are_what_the_registry_says() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/src/which-method.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = page.split_once(START).expect("the page has a start mark");
    let (written, after) = rest.split_once(END).expect("the page has an end mark");
    let tables = tables();
    if std::env::var_os("ATEDM_WRITE_GUIDE").is_some() {
        std::fs::write(&file, format!("{before}{START}{tables}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(written, tables, "run the command at the head of this test to write the tables anew");
}
