//! `atedm bench`: the U-Net at its real size, whole and under each method, timed in turns in one process.
//!
//! # How it is timed
//! - A round runs the full model once, and every method once at each kind of step of its schedule (prune-less, normal, and
//!   where kept sets serve several steps with and without scoring anew). Medians over the rounds are shown, and the mean
//!   over the schedule weighs each kind by its number of steps. Where the first time that a block scores costs more, it
//!   is timed once before the rounds, and weighed too.
//! - Phases are booked by wrappings of the method and its parts, on one clock; the model knows nothing of it. On a
//!   GPU that means waiting at every change of phase, so there the phases come from one more round whose total is not used.
//! - A vote cast inside attention's forward pass is scoring: its price is what the request adds to that attention, timed apart.

mod clock;
mod contender;
mod figures;
mod machine;
mod overlap;
mod plan;
mod report;
mod stage;
mod timed;
mod votes;

use atedm_core::reference::NdTensor;
use atedm_core::{Backend, DType, DeviceOf};

use super::print::print;
use super::subject::{Costed, Subject};
use crate::Extension;
use crate::args::{BenchArgs, Device, PruneArgs};
use crate::dispatch::{Task, dispatch};
use crate::extension::registry;
use crate::failure::{Failure, Outcome};
use crate::files::OutputFile;
use crate::method::Workload;
use crate::model::Model;
use crate::prune::PruneSpec;
use crate::tell;
use crate::threads::cores;
use clock::{Detail, SharedClock};
use contender::{Conditions, Contender};
use figures::Figures;
use report::Report;
use stage::Bench;
use votes::Prices;

/// Times what is asked for and prints it.
pub(crate) fn run(args: &BenchArgs, extension: &impl Extension) -> Outcome {
    let half = DType::from(args.engine.dtype).size_in_bytes() == 2;
    let model = match args.model.as_deref() {
        Some(typed) if !args.generated => Some(Model::open(Some(typed), half.then_some("fp16"))?),
        _ => None,
    };
    let folder = model.as_ref().map(|model| model.checkpoint.root().to_string_lossy().into_owned());
    let subject = Subject::open(folder.as_deref().or(args.model.as_deref()), [("--size", args.size); 2])?;
    let output = args.json.as_deref().map(OutputFile::prepare).transpose()?;
    let work = subject.workload(args.steps);
    let mut methods = Vec::new();
    for name in &args.methods {
        methods.push(costed(name, args, &work, extension)?);
    }
    let race = Race { args, extension, subject: &subject, model: model.as_ref(), methods };
    let report = dispatch(&args.engine, race)?;
    if let Some(output) = output {
        let mut json = serde_json::to_vec_pretty(&report.to_json()).map_err(Failure::run)?;
        json.push(b'\n');
        output.write(&json)?;
    }
    print(&report.to_text())
}

/// A method by name, checked before any weights are made.
fn costed(name: &str, args: &BenchArgs, work: &Workload<'_>, extension: &impl Extension) -> Outcome<Costed> {
    let registry = registry::<NdTensor>(extension)?;
    let typed = PruneArgs {
        prune: Some(name.to_string()),
        prune_opt: if name == "none" { Vec::new() } else { args.prune_opt.clone() },
        prune_config: None,
    };
    let spec = PruneSpec::from_args(&typed)?;
    let mut costed = Costed::new(&spec, work, registry.catalogue())?;
    if (args.model.is_none() || args.generated) && !spec.options.contains_key("epsilon") {
        // on made-up weights scores converge otherwise than on real ones
        costed.method = costed.method.without_early_stop();
    }
    costed.method.check(&registry)?;
    Ok(costed)
}

/// The race on one backend.
struct Race<'a, E> {
    args: &'a BenchArgs,
    extension: &'a E,
    subject: &'a Subject,
    model: Option<&'a Model>,
    methods: Vec<Costed>,
}

impl<E: Extension> Task for Race<'_, E> {
    type Output = Report;

    fn run<B: Backend>(self, device: DeviceOf<B>, dtype: DType) -> Outcome<Report> {
        let Self { args, extension, subject, model, methods } = self;
        let say = |words: String| {
            if !args.quiet {
                tell::line(words);
            }
        };
        let work = subject.workload(args.steps);
        let blocks = work.blocks();
        let of_clock = device.clone();
        let clock = SharedClock::new(Box::new(move || B::synchronize(&of_clock)));
        let host = args.engine.device == Device::Cpu;
        let conditions = Conditions { unfused: args.unfused, host_memory: host };
        let mut contenders = Vec::with_capacity(1 + methods.len());
        let mut full = costed("none", args, &work, extension)?;
        full.label = "full".into();
        for costed in std::iter::once(full).chain(methods) {
            contenders.push(Contender::<B::Tensor>::new(costed, &work, extension, &clock, conditions)?);
        }
        let detail = if host { Detail::Phases } else { Detail::Total };
        say(format!("loading {}", subject.name));
        let bench = Bench::<B>::new(subject, model, args.batch, (device.clone(), dtype))?;
        for contender in &mut contenders {
            say(format!("warming up: {}", contender.costed.label));
            contender.warm_up(&bench, detail)?;
        }
        let racers = contenders.len();
        say("ready".into());
        for round in 1..=args.repeats {
            if args.paced {
                wait_for_turn()?;
            }
            // another one is first in each round: what comes first may find the machine in another state
            let (later, first) = contenders.split_at_mut(round % racers);
            for contender in first.iter_mut().chain(later) {
                contender.round(&bench, detail, conditions)?;
            }
            let seconds: Vec<String> = contenders.iter().map(Contender::last_round).collect();
            say(format!("round {round} of {}: {}", args.repeats, seconds.join(", ")));
        }
        if !host {
            for contender in &mut contenders {
                contender.round(&bench, Detail::Phases, conditions)?;
            }
        }
        let asked = contenders.iter().flat_map(|contender| &contender.samples);
        let asked: Vec<timed::Asked> = asked.flat_map(|(_, measured)| measured.asked.clone()).collect();
        let prices = Prices::measure::<B>(&asked, &blocks, &bench, &clock)?;
        drop(bench);
        let figures = contenders.iter().map(|contender| Figures::new(contender, &prices, &blocks));
        let mut figures: Vec<Figures> = figures.collect();
        if let Some(model) = model {
            say("comparing kept sets with those of converged scores".into());
            let costed: Vec<&Costed> = contenders.iter().map(|contender| &contender.costed).collect();
            let found = overlap::overlaps::<B>(model, subject, &costed, args, (&device, dtype), extension)?;
            for (figures, overlap) in figures.iter_mut().zip(found) {
                figures.overlap = overlap;
            }
        }
        let full = figures.remove(0);
        Ok(Report {
            heading: heading(self.subject, args, B::NAME, dtype),
            device: args.engine.device.to_string(),
            dtype: dtype.to_string(),
            size: subject.size.0,
            batch: args.batch,
            full,
            methods: figures,
        })
    }
}

/// Reads a line, whatever it says.
fn wait_for_turn() -> Outcome {
    match std::io::stdin().read_line(&mut String::new()) {
        Ok(0) => Err(Failure::run("--paced: the standard input ended before the last round")),
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::run(format!("--paced: standard input: {error}"))),
    }
}

/// What was timed, on what, and how.
fn heading(subject: &Subject, args: &BenchArgs, backend: &str, dtype: DType) -> Vec<String> {
    let threads = args.engine.threads.unwrap_or_else(cores);
    let weights = if args.model.is_some() && !args.generated { "its weights" } else { "generated weights" };
    let attention = if args.unfused { "every attention map stored" } else { "fused attention" };
    vec![
        format!(
            "{}, {} px, batch {}, {dtype}, {weights}, {attention}",
            subject.name, subject.size.0, args.batch
        ),
        format!("{backend} on {} ({}, {threads} threads)", args.engine.device, machine::processor()),
        format!("medians of {} rounds; means over {} steps", args.repeats, args.steps),
    ]
}
