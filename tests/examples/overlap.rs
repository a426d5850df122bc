//! Measures how much of G-WPR's converged kept set cheaper ways to vote find. It runs a trained checkpoint along a real
//! trajectory.
//!
//! `cargo run -p atedm-tests --example overlap -- MODEL [--prompts FILE] [--steps N] [--guidance S] [--seed N]
//! [--leader OPTIONS] [--candidate OPTIONS]…`
//!
//! The leader makes one run (default: AT-EDM with the converged sets, 50 votes). Every candidate sees the same token
//! streams and the same attention graphs at the same places. It chooses its own kept sets and keeps its own memory of
//! earlier steps. Its choice is compared with that of 50 votes on the same graph:
//!
//! ```text
//! overlap = |kept ∩ kept of 50 votes| / kept          mean over blocks, steps and batch rows
//! ```
//!
//! OPTIONS is a JSON table of options over the preset `at-edm`, or over the preset that it names:
//! `{"preset": "at-edm-fast", "max_iterations": 1}`. FILE has a prompt on each line. The program prints Markdown tables:
//! one for all levels and one for each level, with a column for each tenth of the steps.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};

use atedm_candle::{Candle, Device};
use atedm_core::at_edm::{AtEdm, AtEdmConfig, Parts};
use atedm_core::plugin::{
    Action, BuildContext, Event, MaskRecorder, MaskSet, Row, Run, Site, Step, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, Backend, DType, GraphRequest, Result};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::{Decoding, Pipeline, Proceed, Request, StepReport};
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

/// Captions of the kind that this project's small trained checkpoints know.
const PROMPTS: [&str; 8] = [
    "a large red circle in the center on a blue plain background",
    "a small yellow star on the left on a purple striped background",
    "a large white ring at the top on a orange shaded background",
    "a small black triangle at the bottom on a white plain background",
    "a large green diamond on the right on a yellow dotted background",
    "a large purple square in the center on a green striped background",
    "a red circle left of a blue square on a white plain background",
    "a yellow star above a purple ring on a black plain background",
];

/// Votes that count as converged.
const CONVERGED: usize = 50;
/// Columns of a table.
const SPANS: usize = 10;

/// Exactly this many votes, from equal scores.
fn cold(votes: usize) -> Value {
    json!({"max_iterations": votes, "epsilon": 0})
}

/// This many votes, from the previous evaluation's scores, at every n-th evaluation.
fn warm(votes: usize, every: usize) -> Value {
    json!({"max_iterations": votes, "epsilon": 0, "warm_start": true, "rescore_every": every})
}

fn candidates() -> Vec<Value> {
    let mut all: Vec<Value> = [1, 2, 3, 5, 10, 20].into_iter().map(cold).collect();
    all.push(json!({"preset": "at-edm"}));
    all.extend([1, 2, 3, 5].map(|votes| warm(votes, 1)));
    for votes in [1, 2] {
        all.extend([2, 3, 5].map(|every| warm(votes, every)));
    }
    for votes in [1, 2] {
        let mut options = warm(votes, 1);
        options["cold_iterations"] = json!(5);
        all.push(options);
    }
    all.push(json!({"preset": "at-edm-fast"}));
    all
}

/// The values of the command line.
struct Arguments {
    model: String,
    prompts: Vec<String>,
    steps: usize,
    guidance: f64,
    seed: u64,
    leader: Value,
    candidates: Vec<Value>,
}

impl Arguments {
    fn read() -> std::result::Result<Self, Failure> {
        let mut read = Self {
            model: String::new(),
            prompts: PROMPTS.map(String::from).to_vec(),
            steps: 50,
            guidance: 4.0,
            seed: 7,
            leader: cold(CONVERGED),
            candidates: Vec::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word}: expected a value"));
            match word.as_str() {
                "--prompts" => {
                    read.prompts = std::fs::read_to_string(value()?)?.lines().map(String::from).collect();
                }
                "--steps" => read.steps = value()?.parse()?,
                "--guidance" => read.guidance = value()?.parse()?,
                "--seed" => read.seed = value()?.parse()?,
                "--leader" => read.leader = serde_json::from_str(&value()?)?,
                "--candidate" => read.candidates.push(serde_json::from_str(&value()?)?),
                _ if read.model.is_empty() && !word.starts_with('-') => read.model = word,
                _ => return Err(format!("unknown argument {word}").into()),
            }
        }
        if read.model.is_empty() {
            return Err("expected the folder of a checkpoint".into());
        }
        if read.candidates.is_empty() {
            read.candidates = candidates();
        }
        Ok(read)
    }
}

fn configuration(options: &Value, deepest_level: Option<usize>) -> std::result::Result<AtEdmConfig, Failure> {
    let mut table =
        options.as_object().ok_or_else(|| format!("expected a table of options, got {options}"))?.clone();
    let preset = table.remove("preset").unwrap_or_else(|| json!("at-edm"));
    let preset = preset.as_str().ok_or("preset: expected a name")?;
    let config = AtEdmConfig::from_options(preset, &table)?;
    let levels = deepest_level.map_or(config.levels.clone(), |deepest| config.levels.resolved(deepest));
    Ok(AtEdmConfig { levels, ..config })
}

/// A method that makes its choices, which the run does not follow.
struct Follower<T: AttentionOps> {
    name: String,
    method: AtEdm<T>,
    recorder: Arc<Mutex<MaskRecorder>>,
}

impl<T: AttentionOps> Follower<T> {
    fn new(options: &Value, deepest_level: Option<usize>) -> std::result::Result<Self, Failure> {
        let recorder = MaskRecorder::shared();
        let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
        // Its plans are discarded, so it uses the cheapest recovery.
        let config = AtEdmConfig { recovery: "zero".into(), ..configuration(options, deepest_level)? };
        let method = config.build(&context, &Parts::with_builtins())?;
        Ok(Self { name: name(options), method, recorder })
    }

    fn masks(&self) -> std::result::Result<MaskSet, Failure> {
        Ok(self.recorder.lock().map_err(|_| "a recorder panicked")?.take())
    }
}

/// The options in short.
fn name(options: &Value) -> String {
    let Some(table) = options.as_object() else { return options.to_string() };
    let pairs = table.iter().filter(|(key, value)| {
        !matches!((key.as_str(), value.as_f64()), ("rescore_every", Some(1.0)) | ("epsilon", Some(0.0)))
    });
    pairs
        .map(|(key, value)| format!("`{key}={value}`").replace("=\"", "=").replace("\"`", "`"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The leader decides. Every follower gets the same events.
struct Compared<T: AttentionOps> {
    leader: AtEdm<T>,
    followers: Vec<Follower<T>>,
}

/// A copy of the event. The graph of the copy has no vote that another method asked for.
fn copy<'a, T: AttentionOps>(event: &Event<'a, T>) -> Option<Event<'a, T>> {
    Some(match event {
        Event::LayerEnter { hidden } => Event::LayerEnter { hidden },
        Event::Before { sub, hidden, normed, reductions } => {
            Event::Before { sub: *sub, hidden, normed, reductions: *reductions }
        }
        Event::Attended { sub, graph, values, output, .. } => {
            Event::Attended { sub: *sub, graph: graph.clone(), first_vote: None, values, output }
        }
        Event::After { sub, hidden, output, reductions } => {
            Event::After { sub: *sub, hidden, output, reductions: *reductions }
        }
        Event::BlockExit { hidden } => Event::BlockExit { hidden },
        _ => return None,
    })
}

impl<T: AttentionOps> TokenReducer<T> for Compared<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.followers.iter_mut().try_for_each(|follower| follower.method.begin_run(run))?;
        self.leader.begin_run(run)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.followers.iter_mut().try_for_each(|follower| follower.method.begin_step(step, rows))?;
        self.leader.begin_step(step, rows)
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        let mut wanted = !matches!(self.leader.wants(site, sub)?, GraphRequest::None);
        for follower in &mut self.followers {
            wanted |= !matches!(follower.method.wants(site, sub)?, GraphRequest::None);
        }
        // Attention's forward pass casts no vote, because each method starts from other scores.
        Ok(if wanted { GraphRequest::Lazy } else { GraphRequest::None })
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        for follower in &mut self.followers {
            if let Some(event) = copy(&event) {
                follower.method.on_event(site, event)?;
            }
        }
        self.leader.on_event(site, event)
    }
}

/// A mean that values are added to.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
    }

    fn join(&mut self, other: &Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count.max(1.0)
    }
}

impl std::fmt::Display for Mean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.count == 0.0 { f.write_str("–") } else { write!(f, "{:.3}", self.mean()) }
    }
}

/// The share of `kept` that is in `reference`. Both are in ascending order.
fn overlap(kept: &[u32], reference: &[u32]) -> f64 {
    let common = kept.iter().filter(|token| reference.binary_search(token).is_ok()).count();
    common as f64 / kept.len().max(1) as f64
}

/// One candidate's overlap.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    votes: Mean,
    spans: [Mean; SPANS],
    all: Mean,
}

impl Line {
    /// Both lines joined into one.
    fn with(mut self, other: &Self) -> Self {
        self.votes.join(&other.votes);
        self.all.join(&other.all);
        self.spans.iter_mut().zip(&other.spans).for_each(|(span, other)| span.join(other));
        self
    }
}

fn compare(
    masks: &MaskSet,
    reference: &MaskSet,
    levels: &BTreeMap<String, usize>,
    steps: usize,
) -> BTreeMap<usize, Line> {
    let mut lines: BTreeMap<usize, Line> = BTreeMap::new();
    for (key, entry) in masks.iter() {
        let (Some(&level), Some(other)) = (levels.get(&key.block), reference.get(key)) else { continue };
        let line = lines.entry(level).or_default();
        line.votes.add(entry.votes as f64);
        for (kept, reference) in entry.kept.iter().zip(&other.kept) {
            let share = overlap(kept, reference);
            line.spans[key.step * SPANS / steps].add(share);
            line.all.add(share);
        }
    }
    lines
}

fn main() -> std::result::Result<(), Failure> {
    run::<Candle>(&Device::Cpu, &Arguments::read()?)
}

fn run<B: Backend>(
    device: &atedm_core::DeviceOf<B>,
    arguments: &Arguments,
) -> std::result::Result<(), Failure> {
    let checkpoint = Checkpoint::open(&arguments.model, OpenOptions::default())?;
    let pipeline = Pipeline::<B>::load(&checkpoint, DType::F32, device)?;
    let side = checkpoint.unet().sample_size.ok_or("the checkpoint names no sample_size")?;
    let levels: BTreeMap<String, usize> =
        checkpoint.unet().blocks(side, side).iter().map(|block| (block.id.name(), block.id.level)).collect();
    let deepest_level = levels.values().copied().max();
    let mut followers = vec![Follower::<B::Tensor>::new(&cold(CONVERGED), deepest_level)?];
    for options in &arguments.candidates {
        followers.push(Follower::new(options, deepest_level)?);
    }
    let leader = configuration(&arguments.leader, deepest_level)?;
    let leader = leader.build(&BuildContext::default(), &Parts::with_builtins())?;
    let mut compared = Compared { leader, followers };
    let request = Request {
        steps: arguments.steps,
        guidance_scale: arguments.guidance,
        seed: arguments.seed,
        decoding: Decoding::Skip,
        ..Request::new(arguments.prompts.clone())
    };
    let mut progress = |report: &StepReport<'_, B::Tensor>| {
        eprint!("\rstep {} of {}", report.index + 1, report.total);
        Proceed::Continue(())
    };
    pipeline.generate(&request, &mut compared, &mut progress)?;
    eprintln!();

    let reference = compared.followers[0].masks()?;
    let lines: Vec<(String, BTreeMap<usize, Line>)> = compared.followers[1..]
        .iter()
        .map(|follower| {
            Ok((follower.name.clone(), compare(&follower.masks()?, &reference, &levels, arguments.steps)))
        })
        .collect::<std::result::Result<_, Failure>>()?;
    let present: std::collections::BTreeSet<usize> =
        lines.iter().flat_map(|(_, l)| l.keys().copied()).collect();
    let tokens = |level: usize| {
        let mut entries = reference.iter().filter(|(key, _)| levels.get(&key.block) == Some(&level));
        entries.next().map_or(0, |(_, entry)| entry.tokens)
    };
    println!("\nAll levels\n");
    table(&lines, arguments.steps, |by_level| Some(by_level.values().fold(Line::default(), Line::with)));
    for &level in &present {
        println!("\nLevel {level} ({} tokens)\n", tokens(level));
        table(&lines, arguments.steps, |by_level| by_level.get(&level).copied());
    }
    Ok(())
}

/// Prints the line that `pick` selects for each candidate.
fn table(
    lines: &[(String, BTreeMap<usize, Line>)],
    steps: usize,
    pick: impl Fn(&BTreeMap<usize, Line>) -> Option<Line>,
) {
    let bound = |span: usize| (span * steps).div_ceil(SPANS);
    let spans: Vec<String> =
        (0..SPANS).map(|span| format!("{}–{}", bound(span), bound(span + 1).saturating_sub(1))).collect();
    println!("| options | votes | all steps | {} |", spans.join(" | "));
    println!("|{}", "---|".repeat(SPANS + 3));
    for (name, by_level) in lines {
        let Some(line) = pick(by_level) else { continue };
        let spans: Vec<String> = line.spans.iter().map(Mean::to_string).collect();
        println!("| {name} | {:.2} | **{}** | {} |", line.votes.mean(), line.all, spans.join(" | "));
    }
}
