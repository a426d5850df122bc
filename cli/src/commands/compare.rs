//! `atedm compare`: the same prompts and seeds through several methods, side by side.

use std::collections::BTreeMap;

use atedm_core::reference::NdTensor;
use atedm_experiment::draw::{Cell, Sheet};
use atedm_experiment::engine::{Batch, FinishedBatch, PlannedRun};
use atedm_experiment::extension::registry;
use atedm_experiment::files::{DATA_MOST, LatentsFile, OutputFile, Picture, png_bytes, read_bytes};
use atedm_experiment::grid::Point;
use atedm_experiment::init_image::InitImage;
use atedm_experiment::inputs::{Inputs, digest};
use atedm_experiment::model::Model;
use atedm_experiment::observe::Watch;
use atedm_experiment::pictures::{References, missing};
use atedm_experiment::plan::{Plan, PlanInputs, RunOptions};
use atedm_experiment::record::{Distances, Flops, PromptLine, Provenance, Times};
use atedm_experiment::spec::PruneSpec;
use atedm_sdxl::flops::readable;
use atedm_sdxl::pipeline::TextEncoders;
use serde_json::{Value, json};

use super::print;
use crate::Extension;
use crate::args::{CompareArgs, PruneArgs, SampleArgs};
use crate::dispatch::run_plan;
use crate::failure::{Failure, Outcome};
use crate::model::{asked, open_for};
use crate::progress::Progress;
use crate::prune;
use crate::sample::{init_image, noise, point, run_options, tiles};

/// Pixels of a letter on the sheet.
const LETTER: usize = 8;
/// Letters of a prompt on the sheet.
const ROW_TITLE: usize = 112;

/// Makes the images, draws the sheet and prints the table.
pub(crate) fn run(args: &CompareArgs, extension: &impl Extension) -> Outcome {
    let sheet = OutputFile::prepare(&args.output)?;
    let specs = specs(&args.methods.join(","))?;
    let sample = &args.sample;
    let progress = Progress::new(0, args.quiet);
    let model = open_for(&args.engine, sample.model.as_deref())?;
    let size = model.size(asked(sample.width, sample.height))?;
    let work = model.workload(size, sample.steps);
    let noise = noise(sample, &work)?;
    let init = init_image(sample, size)?;
    model.check_tiles(tiles(sample))?;
    let options = run_options(sample, "compare".into(), prompts(args))?;
    let options = RunOptions { distances: true, ..options };
    let hashes = inputs(sample, init.as_ref(), &model)?;
    let inputs = PlanInputs { model: model.name(), size, work, hashes };
    let (platform, registry) = (args.engine.platform(), registry::<NdTensor>(extension)?);
    let plan = Plan::new(options, points(specs, args)?, &inputs, &platform, &registry, &progress)?;
    model.warn_of_long_prompts(sample.prompt.iter().chain(&sample.negative_prompt), &progress)?;

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
    run.check_memory()?;
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

/// `name,name:key=value,key=value,name`: what has an equals sign and no name before it is one more option.
fn specs(list: &str) -> Outcome<Vec<PruneSpec>> {
    let mut typed: Vec<(String, Vec<String>)> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, option) = match part.split_once(':') {
            Some((name, option)) if !name.contains('=') => (Some(name), Some(option)),
            _ if part.contains('=') => (None, Some(part)),
            _ => (Some(part), None),
        };
        if let Some(name) = name {
            typed.push((name.to_string(), Vec::new()));
        }
        match (typed.last_mut(), option) {
            (Some((_, options)), Some(option)) => options.push(option.to_string()),
            (None, _) => {
                return Err(Failure::usage(format!(
                    "--methods: expected a method's name first, got {part:?}"
                )));
            }
            _ => {}
        }
    }
    let spec = |(name, options): (String, Vec<String>)| {
        let prune_opt = vec![options.join(",")];
        prune::spec(&PruneArgs { prune: Some(name), prune_opt, prune_config: None })
            .map_err(|failure| failure.within("--methods"))
    };
    let specs: Vec<PruneSpec> = typed.into_iter().map(spec).collect::<Outcome<_>>()?;
    match specs.is_empty() {
        true => Err(Failure::usage("--methods: expected at least one method")),
        false => Ok(specs),
    }
}

/// What the images are made of, by content: the checkpoint, and what they start from.
fn inputs(sample: &SampleArgs, init: Option<&InitImage>, model: &Model) -> Outcome<Inputs> {
    let mut inputs = model.inputs()?;
    if let Some(path) = &sample.latents {
        inputs.insert("latents".into(), digest(&read_bytes(path, DATA_MOST)?));
    }
    if let Some(init) = init {
        inputs.insert("init_image".into(), init.digest()?);
    }
    Ok(inputs)
}

/// The columns.
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

/// The rows: every prompt with every seed.
fn prompts(args: &CompareArgs) -> Vec<PromptLine> {
    let sample = &args.sample;
    let seeds = if args.seeds.is_empty() { vec![sample.seed] } else { args.seeds.clone() };
    let one = |index: usize, prompt: &String, seed: u64| PromptLine {
        id: format!("{index}-{seed}"),
        prompt: prompt.clone(),
        seed,
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

/// One image with its figures.
struct Shown {
    /// Its column.
    place: usize,
    picture: Picture,
    flops: Flops,
    times: Times,
    distances: Option<Distances>,
}

/// All images, row by row.
struct Report<'a> {
    plan: &'a Plan,
    cells: Vec<Shown>,
}

/// The mean figures of a column.
struct Mean {
    tflop: f64,
    whole: f64,
    seconds: f64,
    /// PSNR over the pictures that differ, SSIM, and relative latent L2; `None` for the unpruned column.
    distances: Option<(Option<f64>, f64, f64)>,
}

impl Report<'_> {
    fn rows(&self) -> impl Iterator<Item = (&PromptLine, &[Shown])> {
        self.plan.prompts.iter().zip(self.cells.chunks(self.plan.points.len().max(1)))
    }

    fn sheet(&self, side: usize) -> Picture {
        let many_seeds = self.plan.prompts.iter().any(|prompt| prompt.seed != self.plan.prompts[0].seed);
        let rows = self.rows().map(|(prompt, cells)| {
            let cells =
                cells.iter().map(|cell| Cell { picture: cell.picture.clone(), caption: cell.caption() });
            let seed = if many_seeds { format!(" #{}", prompt.seed) } else { String::new() };
            (format!("{}{seed}", shortened(&prompt.prompt, ROW_TITLE)), cells.collect())
        });
        let labels = self.plan.points.iter().map(|point| point.info.label.as_str());
        let sheet = Sheet {
            title: format!(
                "{} | cost of a U-Net evaluation (2 x MAC), seconds a step, PSNR to the first column",
                self.model()
            ),
            columns: labels.map(|label| shortened(label, side / LETTER)).collect(),
            rows: rows.collect(),
        };
        sheet.draw(side)
    }

    fn model(&self) -> &str {
        self.plan.points.first().map_or("", |point| point.info.settings.model.as_str())
    }

    fn mean(&self, place: usize) -> Mean {
        let cells: Vec<&Shown> = self.cells.iter().filter(|cell| cell.place == place).collect();
        let over = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let distances: Vec<&Distances> = cells.iter().filter_map(|cell| cell.distances.as_ref()).collect();
        let psnr: Vec<f64> = distances.iter().filter_map(|distances| distances.psnr).collect();
        Mean {
            tflop: over(cells.iter().map(|cell| cell.flops.mean_tflop).collect()),
            whole: over(cells.iter().map(|cell| cell.flops.whole_tflop).collect()),
            seconds: over(cells.iter().map(|cell| cell.times.seconds_per_step).collect()),
            distances: (!distances.is_empty()).then(|| {
                let psnr = (!psnr.is_empty()).then(|| over(psnr));
                let ssim = over(distances.iter().map(|distances| distances.ssim).collect());
                (psnr, ssim, over(distances.iter().map(|distances| distances.latent_l2_relative).collect()))
            }),
        }
    }

    /// A line a method: means over the prompts; then a line an image, where there are several prompts.
    fn to_text(&self) -> String {
        let labels = self.plan.points.iter().map(|point| point.info.label.chars().count());
        let wide = labels.max().unwrap_or(0).max(6);
        let head = |first: &str| {
            format!(
                "{first:<wide$} {:>14} {:>7} {:>10} {:>8} {:>8} {:>10}",
                "cost", "saved", "s a step", "PSNR dB", "SSIM", "latent L2"
            )
        };
        let line = |label: &str, mean: &Mean| {
            let saved = 100.0 * (1.0 - mean.tflop / mean.whole);
            let (psnr, ssim, latent) = match mean.distances {
                None => ("-".into(), "-".into(), "-".into()),
                Some((psnr, ssim, latent)) => (
                    psnr.map_or("equal".into(), |psnr| format!("{psnr:.2}")),
                    format!("{ssim:.4}"),
                    format!("{latent:.4}"),
                ),
            };
            let cost = readable(mean.tflop);
            let seconds = mean.seconds;
            format!(
                "{label:<wide$} {cost:>14} {saved:>5.1} % {seconds:>10.3} {psnr:>8} {ssim:>8} {latent:>10}"
            )
        };
        let mut lines = vec![head("method")];
        lines.extend(
            self.plan
                .points
                .iter()
                .enumerate()
                .map(|(place, point)| line(&point.info.label, &self.mean(place))),
        );
        if self.plan.prompts.len() > 1 {
            for (prompt, cells) in self.rows() {
                lines.push(String::new());
                lines.push(format!("{} (seed {})", prompt.prompt, prompt.seed));
                for cell in cells {
                    let label =
                        self.plan.points.get(cell.place).map_or("", |point| point.info.label.as_str());
                    lines.push(line(label, &cell.mean()));
                }
            }
        }
        lines.push(String::new());
        lines.push("Cost: of one U-Net evaluation on one sample, mean over the steps. Distances: to the unpruned image of the same".into());
        lines.push("prompt and seed; latent L2 is relative.".into());
        lines.extend(self.plan.points.first().map(|point| point.info.settings.noise()));
        lines.join("\n")
    }

    fn to_json(&self, provenance: &Provenance) -> Outcome<Value> {
        let methods = self.plan.points.iter().enumerate().map(|(place, point)| {
            let mean = self.mean(place);
            let distances = mean.distances.map(
                |(psnr, ssim, latent)| json!({ "psnr": psnr, "ssim": ssim, "latent_l2_relative": latent }),
            );
            json!({
                "label": point.info.label,
                "settings": point.info.settings,
                "config_hash": point.info.config_hash,
                "mean_tflop": mean.tflop,
                "whole_tflop": mean.whole,
                "seconds_per_step": mean.seconds,
                "distances": distances,
            })
        });
        let methods: Vec<Value> = methods.collect();
        let images = self.rows().flat_map(|(prompt, cells)| {
            cells.iter().map(move |cell| {
                let distances = cell.distances.as_ref().map(|distances| {
                    let mut value = serde_json::to_value(distances).unwrap_or_default();
                    // rows are known by prompt and seed here
                    if let Some(table) = value.as_object_mut() {
                        table.remove("to");
                    }
                    value
                });
                json!({
                    "prompt": prompt.prompt,
                    "seed": prompt.seed,
                    "method": self.plan.points.get(cell.place).map(|point| point.info.label.as_str()),
                    "mean_tflop": cell.flops.mean_tflop,
                    "seconds_per_step": cell.times.seconds_per_step,
                    "seconds": cell.times.seconds,
                    "distances": distances,
                })
            })
        });
        let images: Vec<Value> = images.collect();
        let provenance: BTreeMap<String, Value> =
            serde_json::from_value(serde_json::to_value(provenance).map_err(Failure::run)?)
                .map_err(Failure::run)?;
        Ok(json!({
            "model": self.model(),
            "flops_unit": "TFLOP: 2 x MAC, one sample, one U-Net evaluation; mean over the steps",
            "methods": methods,
            "images": images,
            "provenance": provenance,
        }))
    }
}

impl Shown {
    fn caption(&self) -> String {
        let mut caption =
            format!("{} {:.2} s/step", readable(self.flops.mean_tflop), self.times.seconds_per_step);
        if let Some(Distances { psnr: Some(psnr), .. }) = &self.distances {
            caption.push_str(&format!(" {psnr:.1} dB"));
        }
        caption
    }

    fn mean(&self) -> Mean {
        let of = |distances: &Distances| (distances.psnr, distances.ssim, distances.latent_l2_relative);
        Mean {
            tflop: self.flops.mean_tflop,
            whole: self.flops.whole_tflop,
            seconds: self.times.seconds_per_step,
            distances: self.distances.as_ref().map(of),
        }
    }
}

/// The first letters of a text that is longer than `most`.
fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() {
        few if few <= most => text.to_string(),
        _ => text.chars().take(most.saturating_sub(3)).chain("...".chars()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_options_of_their_own() {
        let read = specs("none,at-edm:ratio=0.5,tau=15, at-edm:scorer_options.power=1,tome-c").unwrap();
        let names: Vec<&str> = read.iter().map(|spec| spec.method.as_str()).collect();
        assert_eq!(names, ["none", "at-edm", "at-edm", "tome-c"]);
        assert_eq!(Value::Object(read[1].options.clone()), json!({"ratio": 0.5, "tau": 15}));
        assert_eq!(Value::Object(read[2].options.clone()), json!({"scorer_options": {"power": 1}}));
        assert!(read[3].options.is_empty());
        for (bad, named) in [("", "at least one"), ("ratio=1", "name first"), ("at-edm:ratio", "key=value")] {
            let message = specs(bad).unwrap_err().to_string();
            assert!(message.contains(named) && message.starts_with("--methods"), "{message}");
        }
    }

    #[test]
    fn long_prompts_are_shortened() {
        assert_eq!(shortened("a fox", 5), "a fox");
        assert_eq!(shortened("a very long prompt", 9), "a very...");
    }
}
