//! `atedm ablate`: makes the images of a grid of methods and options.

use std::path::{Path, PathBuf};

use atedm_core::reference::NdTensor;
use atedm_experiment::ablation::{Ablated, Ablation, Before, Written};
use atedm_experiment::config::{Config, Origin};
use atedm_experiment::extension::registry;
use atedm_experiment::merge::{ExtraFile, merge};
use atedm_experiment::record::RunInfo;
use atedm_experiment::shard::Shard;
use atedm_sdxl::flops::readable;

use super::print::print;
use crate::Extension;
use crate::args::{AblateAction, AblateArgs, EngineArgs, MergeArgs, ModelArgs, ShardArgs};
use crate::dispatch::run_plan;
use crate::failure::{Failure, Outcome};
use crate::model::{open_for, subject};
use crate::progress::Progress;
use crate::tell;

/// Runs a configuration, shows its plan, or merges shards.
pub(crate) fn run(args: &AblateArgs, extension: &impl Extension) -> Outcome {
    if let Some(AblateAction::Merge(args)) = &args.action {
        return run_merge(args);
    }
    let file = args.file.as_deref().ok_or_else(|| Failure::usage("expected FILE.toml"))?;
    let (config, text) = Config::read(file, args.prompts.as_deref())?;
    let written = Written { config: &config, text: &text, origin: Origin::File(file) };
    if args.plan {
        return show_plan(written, args, extension);
    }
    let Some(output) = args.output.as_deref() else {
        return Err(Failure::usage("--output: expected a folder"));
    };
    let request = Request {
        model: &args.model,
        output,
        shards: &args.shards,
        take_from: &args.take_from,
        engine: &args.engine,
        quiet: args.quiet,
    };
    make_images(written, &request, extension, Box::new(|| Ok(())))
}

/// The flags that apply in addition to a configuration.
pub(super) struct Request<'a> {
    /// The flags of the model, which replace the configuration's keys.
    pub(super) model: &'a ModelArgs,
    /// The run's folder.
    pub(super) output: &'a Path,
    pub(super) shards: &'a ShardArgs,
    pub(super) take_from: &'a [PathBuf],
    pub(super) engine: &'a EngineArgs,
    pub(super) quiet: bool,
}

fn show_plan(written: Written<'_>, args: &AblateArgs, extension: &impl Extension) -> Outcome {
    let subject = subject(&args.model.or(written.config));
    let subject = subject.map_err(|failure| of_model(failure, written, &args.model))?;
    let subject = subject.extended(extension)?;
    let (platform, registry) = (args.engine.platform(), registry::<NdTensor>(extension)?);
    let progress = Progress::new(0, args.quiet);
    let plan = written.plan(subject, &platform, &registry, &progress)?;
    show(&plan.info(None), args.json)
}

/// An error in a model that the configuration names is the configuration's. In one from the command line it is not.
fn of_model(failure: Failure, written: Written<'_>, flags: &ModelArgs) -> Failure {
    match (&flags.model, &written.config.model) {
        (None, Some(_)) => written.origin.blamed(failure.within("model")),
        _ => failure,
    }
}

/// Makes the missing images. `before` runs after all checks, before the first file of the run is written.
pub(super) fn make_images(
    written: Written<'_>,
    request: &Request<'_>,
    extension: &impl Extension,
    before: Before<'_>,
) -> Outcome {
    let Request { model: flags, output, shards, take_from, engine, quiet } = *request;
    let model = open_for(engine, &flags.or(written.config));
    let model = model.map_err(|failure| of_model(failure, written, flags))?.extended(extension)?;
    let (platform, registry) = (engine.platform(), registry::<NdTensor>(extension)?);
    let progress = Progress::new(0, quiet);
    let ablation = Ablation {
        written,
        model: &model,
        platform: &platform,
        output,
        shard: Shard::find(shards.shard, shards.shards, |name| std::env::var(name).ok())?,
        resume: shards.resume,
        take_from,
        listener: &progress,
    };
    let Ablated { folder, made, taken, total } =
        ablation.run(&registry, before, |run, sink| run_plan(engine, run, extension, sink))?;
    progress.say(&match (made, taken) {
        (0, 0) => format!("{}: all {total} images are there", folder.display()),
        (made, 0) => format!("wrote {made} images to {}", folder.display()),
        (made, taken) => {
            format!("wrote {} images to {}, {taken} of them from other runs", made + taken, folder.display())
        }
    });
    Ok(())
}

/// Prints the plan to the standard output.
fn show(info: &RunInfo, json: bool) -> Outcome {
    let text = if json { serde_json::to_string_pretty(info).map_err(Failure::run)? } else { table(info) };
    print(text.trim_end())
}

fn table(info: &RunInfo) -> String {
    let images = info.points.len() * info.prompts;
    let mut lines = vec![
        format!("{}: {} points, {} prompts, {images} images", info.title, info.points.len(), info.prompts),
        "mean cost of one U-Net evaluation on one sample (2 x MAC)".into(),
    ];
    lines.extend(info.points.first().map(|point| point.settings.noise()));
    lines.push(String::new());
    let wide = info.points.iter().map(|point| point.label.chars().count()).max().unwrap_or(0).max(5);
    lines.push(format!(
        "{:<wide$} {:>7} {:>14} {:>8} {:>6} {:>6}",
        "point", "ratio", "cost", "saved", "steps", "cfg"
    ));
    lines.extend(info.points.iter().map(|point| {
        let settings = &point.settings;
        let ratio = settings.options.get("ratio").and_then(serde_json::Value::as_f64);
        let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.4}"));
        let cost = point.planned_tflop.map_or("-".into(), readable);
        let saved = point
            .planned_tflop
            .map_or("-".into(), |tflop| format!("{:.1} %", 100.0 * (1.0 - tflop / point.whole_tflop)));
        let (label, steps, cfg) = (&point.label, settings.steps, settings.guidance_scale);
        format!("{label:<wide$} {ratio:>7} {cost:>14} {saved:>8} {steps:>6} {cfg:>6}")
    }));
    lines.join("\n")
}

/// The function that makes `results.parquet`.
#[cfg(feature = "parquet")]
fn parquet_file() -> Outcome<ExtraFile> {
    Ok(("results.parquet", atedm_experiment::columns::parquet_bytes))
}

/// The error if this build lacks the feature.
#[cfg(not(feature = "parquet"))]
fn parquet_file() -> Outcome<ExtraFile> {
    Err(Failure::usage("--parquet: this build lacks the cargo feature `parquet`"))
}

fn run_merge(args: &MergeArgs) -> Outcome {
    let files = if args.parquet { vec![parquet_file()?] } else { Vec::new() };
    let merged = merge(&args.folders, &args.output, &files)?;
    let (images, folders) = (merged.images, merged.folders);
    tell::line(format_args!("wrote {images} images of {folders} folders to {}", args.output.display()));
    Ok(())
}
