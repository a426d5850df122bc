//! `atedm compare`: runs the same prompts and seeds with several methods, and shows the results side by side.

mod table;

use std::collections::BTreeMap;

use atedm_core::reference::NdTensor;
use atedm_experiment::control::ControlPicture;
use atedm_experiment::engine::{Batch, FinishedBatch, PlannedRun};
use atedm_experiment::extension::registry;
use atedm_experiment::files::{DATA_MOST, LatentsFile, OutputFile, png_bytes, read_bytes};
use atedm_experiment::grid::Point;
use atedm_experiment::init_image::InitImage;
use atedm_experiment::inputs::{Inputs, digest};
use atedm_experiment::model::Model;
use atedm_experiment::observe::Watch;
use atedm_experiment::pictures::{References, missing};
use atedm_experiment::plan::{Plan, PlanInputs, RunOptions};
use atedm_experiment::record::PromptLine;
use atedm_experiment::spec::PruneSpec;
use atedm_sdxl::pipeline::TextEncoders;

use super::print::print;
use crate::Extension;
use crate::args::{CompareArgs, SampleArgs};
use crate::dispatch::run_plan;
use crate::failure::{Failure, Outcome};
use crate::model::open_for;
use crate::progress::Progress;
use crate::prune;
use crate::sample::{
    check_sampler, control, control_image, init_image, noise, point, run_options, start, tiles,
    warn_of_prompts,
};
use table::{Report, Shown};

/// Makes the images, draws the sheet and prints the table.
pub(crate) fn run(args: &CompareArgs, extension: &impl Extension) -> Outcome {
    let sheet = OutputFile::prepare(&args.output)?;
    let specs = prune::methods(&args.methods)?;
    let sample = &args.sample;
    let progress = Progress::new(0, args.quiet);
    let control = control(sample)?;
    check_sampler(extension, sample.scheduler.as_deref())?;
    let model = open_for(&args.engine, &sample.model)?.extended(extension)?;
    let size = model.size(sample.size.asked())?;
    let work = model.workload(size, sample.steps);
    let noise = noise(sample, &work)?;
    let init = init_image(sample, size, &progress)?;
    model.check_tiles(tiles(sample))?;
    let options = run_options(sample, "compare".into(), prompts(args))?;
    let options = RunOptions { distances: true, ..options };
    let inputs = PlanInputs {
        control: control.as_ref().map(ControlPicture::used).transpose()?,
        strength: start(sample).map(|start| start.strength()),
        ..PlanInputs::of(&model, size, work, inputs(sample, init.as_ref(), &model)?)
    };
    let control = control_image(control, size, &progress)?;
    let (platform, registry) = (args.engine.platform(), registry::<NdTensor>(extension)?);
    let plan = Plan::new(options, points(specs, args)?, &inputs, &platform, &registry, &progress)?;
    warn_of_prompts(sample, &model, &progress)?;

    let everything: Vec<usize> = (0..plan.points.len()).collect();
    let batches = plan.prompts.iter().enumerate().map(|(index, prompt)| Batch {
        prompts: vec![prompt.clone()],
        points: everything.clone(),
        noise: noise.as_ref().and_then(|noise| one_of(noise, index)),
    });
    let run = PlannedRun {
        plan: &plan,
        model: &model,
        platform: &platform,
        batches: batches.collect(),
        init,
        control,
        previews: None,
        replay: None,
        watch: Watch::TOKENS,
        encoders: TextEncoders::Kept,
        listener: &progress,
    };
    let mut cells = Vec::new();
    let mut references = References::default();
    let mut sink = |finished: FinishedBatch<'_>| {
        let image = finished.into_image()?;
        let distances = references.distances(&image, |id| Err(missing(id)))?;
        references.keep(&image);
        let (place, picture, flops, times) = (image.place, image.picture, image.flops, image.times);
        cells.push(Shown { place, picture, flops, times, distances });
        Ok(())
    };
    run.check()?;
    run_plan(&args.engine, run, extension, &mut sink)?;
    let report = Report { plan: &plan, cells };
    sheet.write(&png_bytes(&report.sheet(args.cell), &[])?)?;
    let text = match args.json {
        true => {
            serde_json::to_string_pretty(&report.to_json(&platform.provenance())?).map_err(Failure::run)?
        }
        false => report.to_text(),
    };
    let printed = print(text.trim_end());
    progress.say(&format!("wrote {}", sheet.path().display()));
    printed
}

/// Hashes of the inputs of the images: the checkpoint, and the latents or picture that they start from.
fn inputs(sample: &SampleArgs, init: Option<&InitImage>, model: &Model) -> Outcome<Inputs> {
    let mut inputs = model.inputs()?;
    if let Some(path) = &sample.latents {
        inputs.insert("latents".into(), digest(&read_bytes(path, DATA_MOST)?));
    }
    if let Some(init) = init {
        init.chosen().add_to(&mut inputs)?;
    }
    Ok(inputs)
}

/// The columns of the sheet.
fn points(specs: Vec<PruneSpec>, args: &CompareArgs) -> Outcome<Vec<Point>> {
    let mut points: Vec<Point> = Vec::new();
    for spec in specs {
        let label = spec.label();
        if points.iter().any(|other| other.label == label) {
            return Err(Failure::usage(format!("--methods: expected each once, got {label:?} twice")));
        }
        points.push(point(label, spec, &args.sample));
    }
    if points.iter().all(|point| point.spec.method == "none") {
        return Err(Failure::usage("--methods: expected a method that prunes or merges beside none"));
    }
    Ok(points)
}

/// The rows of the sheet: every prompt with every seed.
fn prompts(args: &CompareArgs) -> Vec<PromptLine> {
    let sample = &args.sample;
    let seeds = if args.seeds.is_empty() { vec![sample.seed] } else { args.seeds.clone() };
    let one = |index: usize, prompt: &String, seed: u64| PromptLine {
        id: format!("{index}-{seed}"),
        prompt: prompt.clone(),
        seed,
        groups: BTreeMap::new(),
    };
    let prompts = sample.prompt.iter().enumerate();
    prompts.flat_map(|(index, prompt)| seeds.iter().map(move |&seed| one(index, prompt, seed))).collect()
}

/// The noise of one image of a batch.
fn one_of(noise: &LatentsFile, index: usize) -> Option<LatentsFile> {
    let [_, channels, height, width] = noise.shape;
    let values = noise.values.chunks(channels * height * width).nth(index)?.to_vec();
    Some(LatentsFile { shape: [1, channels, height, width], values })
}
