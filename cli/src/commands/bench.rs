//! `atedm bench`: times the U-Net at its real size, whole and with each method ([`atedm_experiment::bench`]).

use std::mem;

use atedm_core::{Backend, DeviceOf};
use atedm_experiment::bench::{Race, RaceOptions, Report, contestant};
use atedm_experiment::files::OutputFile;
use atedm_experiment::model::{AskedPixels, AskedSize};
use atedm_experiment::spec::{PruneSpec, merge};
use atedm_experiment::subject::Subject;

use super::print::print;
use crate::Extension;
use crate::args::{BenchArgs, PruneArgs};
use crate::dispatch::{Task, dispatch};
use crate::failure::{Failure, Outcome};
use crate::model::{open_for, subject};
use crate::progress::Progress;
use crate::prune;

/// Runs the benchmark and prints the result.
pub(crate) fn run(args: &BenchArgs, extension: &impl Extension) -> Outcome {
    if args.model.controlnet.is_some() {
        return Err(Failure::usage("--controlnet: expected none, as the U-Net alone is timed"));
    }
    let model = match &args.model.model {
        Some(_) if !args.generated => Some(open_for(&args.engine, &args.model)?),
        _ => None,
    };
    if model.is_none() && !args.model.lora.is_empty() {
        return Err(Failure::usage(
            "--lora: expected a model with weights of its own, as generated weights take none",
        ));
    }
    let side = AskedPixels { key: "--size", pixels: args.size };
    let subject = match &model {
        Some(model) => Subject::of_checkpoint(&model.checkpoint),
        None => subject(&args.model)?,
    };
    let subject = subject.sized(AskedSize { width: side, height: side })?;
    let output = args.json.as_deref().map(OutputFile::prepare).transpose()?;
    let options =
        RaceOptions { batch: args.batch, repeats: args.repeats, steps: args.steps, unfused: args.unfused };
    let work = options.workload(&subject);
    let progress = Progress::new(0, args.quiet);
    let mut methods = Vec::new();
    for spec in specs(args)? {
        methods.push(contestant(&spec, model.as_ref(), &work, extension, &progress)?);
    }
    let mut before_round = || if args.paced { wait_for_turn() } else { Ok(()) };
    let race = Race {
        options,
        extension,
        subject: &subject,
        model: model.as_ref(),
        methods,
        platform: &args.engine.platform(),
        listener: &progress,
        before_round: &mut before_round,
    };
    let report = dispatch(&args.engine, race)?;
    if let Some(output) = output {
        let mut json = serde_json::to_vec_pretty(&report.to_json()).map_err(Failure::run)?;
        json.push(b'\n');
        output.write(&json)?;
    }
    print(&report.to_text())
}

/// The methods. Each has the options that apply to all, then its own.
fn specs(args: &BenchArgs) -> Outcome<Vec<PruneSpec>> {
    let mut specs = prune::methods(&args.methods)?;
    for spec in specs.iter_mut().filter(|spec| spec.method != "none") {
        let (prune, prune_opt) = (Some(spec.method.clone()), args.prune_opt.clone());
        let mut options = prune::spec(&PruneArgs { prune, prune_opt, prune_config: None })?.options;
        merge(&mut options, mem::take(&mut spec.options));
        spec.options = options;
    }
    Ok(specs)
}

impl<E: Extension> Task for Race<'_, E> {
    type Output = Report;

    fn run<B: Backend>(self, device: DeviceOf<B>) -> Outcome<Report> {
        Race::run::<B>(self, &device)
    }
}

/// Reads a line and ignores its content.
fn wait_for_turn() -> Outcome {
    match std::io::stdin().read_line(&mut String::new()) {
        Ok(0) => Err(Failure::run("--paced: the standard input ended before the last round")),
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::run(format!("--paced: standard input: {error}"))),
    }
}
