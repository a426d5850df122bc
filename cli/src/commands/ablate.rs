//! `atedm ablate`: the images of a grid of methods and options.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use atedm_core::DType;

use super::print::print;
use super::subject::Subject;
use crate::Extension;
use crate::args::{AblateAction, AblateArgs, MergeArgs};
use crate::dispatch::dispatch;
use crate::experiment::config::{Config, Origin};
use crate::experiment::engine::{Made, Making, PromptWork, Sink, check_memory, plan_registry, total_steps};
use crate::experiment::folder::{Beginning, RunFolder};
use crate::experiment::grid::points;
use crate::experiment::machine::provenance;
use crate::experiment::members::{Members, image_path, inside, latents_path, masks_path};
use crate::experiment::merge::{ExtraFile, begun_folders, merge};
use crate::experiment::pictures::Reference;
use crate::experiment::plan::{Ground, Outline, Plan};
use crate::experiment::prompts::seed_of;
use crate::experiment::reading::{read_info, read_results, same_run};
use crate::experiment::record::{FORMAT, PromptLine, Provenance, Record, RunInfo};
use crate::experiment::shard::Shard;
use crate::failure::{Failure, Outcome};
use crate::files::{ImageFacts, latents_bytes, mask_metadata, masks_bytes, png_bytes, text_chunks};
use crate::model::Model;
use crate::progress::Progress;
use crate::tell;
use atedm_sdxl::flops::readable;

/// Runs a configuration, shows its plan, or merges shards.
pub(crate) fn run(args: &AblateArgs, extension: &impl Extension) -> Outcome {
    if let Some(AblateAction::Merge(args)) = &args.action {
        return run_merge(args);
    }
    let file = args.file.as_deref().ok_or_else(|| Failure::usage("expected FILE.toml"))?;
    let (config, text) = Config::read(file, args.prompts.as_deref())?;
    let written = Written { config: &config, text: &text, origin: Origin::File(file) };
    if args.plan {
        return show_plan(&written, args, extension);
    }
    make_images(&written, args, extension, Box::new(|| Ok(())))
}

/// A configuration, and who wrote it.
pub(super) struct Written<'a> {
    pub(super) config: &'a Config,
    pub(super) text: &'a str,
    pub(super) origin: Origin<'a>,
}

impl Written<'_> {
    /// The size asked for, by the names of its keys.
    fn size<'k>(&self, [width, height]: [&'k str; 2]) -> [(&'k str, Option<usize>); 2] {
        [(width, self.config.size.0), (height, self.config.size.1)]
    }
}

fn show_plan(written: &Written<'_>, args: &AblateArgs, extension: &impl Extension) -> Outcome {
    let Written { config, origin, .. } = written;
    let named = args.model.as_deref().or(config.model.as_deref());
    let keys = ["width", "height"].map(|key| origin.key(key));
    let subject = Subject::of(named).map_err(|failure| of_model(failure, written, args))?;
    let subject = subject.sized(written.size([&keys[0], &keys[1]]));
    let subject = subject.map_err(|failure| origin.blamed(failure))?;
    let ground = Ground {
        name: &subject.name,
        size: subject.size,
        work: subject.workload(config.sampling.steps),
        scheduler: &subject.scheduler,
        inputs: &subject.inputs(),
    };
    let plan = planned(config, &ground, args, extension).map_err(|failure| origin.blamed(failure))?;
    show(&plan.info(None), args.json)
}

/// A model that a configuration names is its fault; one that was typed is not.
fn of_model(failure: Failure, written: &Written<'_>, args: &AblateArgs) -> Failure {
    match (&args.model, &written.config.model) {
        (None, Some(_)) => written.origin.blamed(failure.within("model")),
        _ => failure,
    }
}

/// Makes the images that are not there yet. `before` is done before the first file of the run is written, when all that can
/// be checked has been.
pub(super) fn make_images<'a>(
    written: &Written<'a>,
    args: &'a AblateArgs,
    extension: &impl Extension,
    before: Before<'a>,
) -> Outcome {
    let Written { config, text, origin } = written;
    let named = args.model.as_deref().or(config.model.as_deref());
    let Some(output) = args.output.as_deref() else {
        return Err(Failure::usage("--output: expected a folder"));
    };
    let half = DType::from(args.engine.dtype).size_in_bytes() == 2;
    let model = Model::open(named, half.then_some("fp16"));
    let model = model.map_err(|failure| of_model(failure, written, args))?;
    let keys = ["width", "height", "vae_tiling"].map(|key| origin.key(key));
    let size = model.size_of(written.size([&keys[0], &keys[1]])).map_err(|failure| origin.blamed(failure))?;
    let tiles = model.check_tiles((&keys[2], config.vae_tiling));
    tiles.map_err(|failure| origin.blamed(failure))?;
    let ground = Ground {
        name: model.name(),
        size,
        work: model.workload(size, config.sampling.steps),
        scheduler: model.checkpoint.scheduler(),
        inputs: &model.inputs()?,
    };
    let plan = planned(config, &ground, args, extension).map_err(|failure| origin.blamed(failure))?;
    model.warn_of_long_prompts(config.prompts.iter().map(|prompt| &prompt.text))?;
    let shard = Shard::find(args.share.shard, args.share.shards, |name| std::env::var(name).ok())?;
    let path = match shard.is_whole() {
        true => output.to_path_buf(),
        false => inside(output, &format!("shard-{}-of-{}", shard.index, shard.count))?,
    };
    let info = plan.info((!shard.is_whole()).then_some([shard.index, shard.count]));
    let beginning = Beginning { config: text, info, prompts: &plan.prompts };
    let folder = RunFolder::open(&path, beginning, args.share.resume)?;
    let elsewhere = match args.share.resume {
        true => done_elsewhere(output, &folder, &plan.prompts)?,
        false => Elsewhere::new(),
    };
    make(args, extension, (&model, &plan), shard, Opened { folder, elsewhere, before: Some(before) })
}

fn planned(
    config: &Config,
    ground: &Ground<'_>,
    args: &AblateArgs,
    extension: &impl Extension,
) -> Outcome<Plan> {
    let prompts = config.prompts.iter().map(|prompt| PromptLine {
        id: prompt.id.clone(),
        prompt: prompt.text.clone(),
        seed: prompt.seed.unwrap_or_else(|| seed_of(config.seed, &prompt.id)),
    });
    let outline = Outline {
        title: config.title.clone(),
        prompts: prompts.collect(),
        rng: config.rng,
        noise_dtype: config.noise_dtype,
        vae_tiling: config.vae_tiling,
        masks: config.masks.clone(),
        distances: config.distances,
    };
    let plan = Plan::new(outline, points(config)?, ground, &args.engine, &plan_registry(extension)?)?;
    plan.check_each_once()?;
    Ok(plan)
}

/// Records of the run's other folders, by id, each with its folder.
type Elsewhere = BTreeMap<String, (PathBuf, Record)>;

/// What other shards of the run made, cut as it may have been: the number of shards may change on the way.
fn done_elsewhere(output: &Path, own: &RunFolder<'_>, prompts: &[PromptLine]) -> Outcome<Elsewhere> {
    let mut done = Elsewhere::new();
    let members = Members::of(own.info(), prompts);
    let begun = if output.exists() { begun_folders(output)? } else { Vec::new() };
    for folder in begun {
        if folder == own.path() {
            continue;
        }
        let shard = read_info(&folder)?.shard;
        same_run(&folder, &RunInfo { shard, ..own.info().clone() })?;
        for (id, record) in read_results(&folder, &members)? {
            done.insert(id, (folder.clone(), record));
        }
    }
    Ok(done)
}

/// What is done before the first file of a run is written.
pub(super) type Before<'a> = Box<dyn FnOnce() -> Outcome + 'a>;

/// A run's folder with what is known of its others.
struct Opened<'a> {
    folder: RunFolder<'a>,
    elsewhere: Elsewhere,
    before: Option<Before<'a>>,
}

impl Opened<'_> {
    /// From here on there are files.
    fn begin(&mut self) -> Outcome {
        self.before.take().map_or(Ok(()), |before| before())?;
        self.folder.begin()
    }
}

/// Makes what is not there yet.
fn make(
    args: &AblateArgs,
    extension: &impl Extension,
    (model, plan): (&Model, &Plan),
    shard: Shard,
    mut opened: Opened<'_>,
) -> Outcome {
    let done: BTreeSet<&String> = opened.folder.done().keys().chain(opened.elsewhere.keys()).collect();
    let prompts: Vec<&PromptLine> = plan.prompts.iter().filter(|prompt| shard.takes(&prompt.id)).collect();
    let pending = |prompt: &PromptLine| -> Vec<usize> {
        let ids = plan.points.iter().map(|point| format!("{}/{}", point.info.id, prompt.id));
        ids.enumerate().filter(|(_, id)| !done.contains(id)).map(|(place, _)| place).collect()
    };
    let work = prompts.iter().map(|&prompt| PromptWork {
        prompt: prompt.clone(),
        points: pending(prompt),
        noise: None,
    });
    let work: Vec<PromptWork> = work.filter(|work| !work.points.is_empty()).collect();
    let total = prompts.len() * plan.points.len();
    let left: usize = work.iter().map(|work| work.points.len()).sum();
    let mut progress = Progress::new(total_steps(plan, &work), args.quiet);
    if left == 0 {
        opened.begin()?;
        progress.clear();
        progress.say(&format!("{}: all {total} images are there", opened.folder.path().display()));
        return Ok(());
    }
    let mut archive = Archive {
        opened,
        plan,
        provenance: provenance(&args.engine),
        references: BTreeMap::new(),
        counted: (total - left, total),
    };
    let progress_of = &mut progress;
    check_memory(plan, model, &args.engine)?;
    dispatch(
        &args.engine,
        Making { plan, model, work, init: None, extension, progress: progress_of, sink: &mut archive },
    )?;
    progress.say(&format!("wrote {left} images to {}", archive.opened.folder.path().display()));
    Ok(())
}

/// Writes images and their lines.
struct Archive<'a> {
    opened: Opened<'a>,
    plan: &'a Plan,
    provenance: Provenance,
    /// Unpruned images of the prompt at work, by their points' places.
    references: BTreeMap<usize, Reference>,
    /// Images that are there, of how many.
    counted: (usize, usize),
}

impl Sink for &mut Archive<'_> {
    fn begin(&mut self) -> Outcome {
        self.opened.begin()
    }

    fn keep(&mut self, made: Made<'_>, progress: &Progress) -> Outcome {
        let info = &made.point.info;
        let id = format!("{}/{}", info.id, made.prompt.id);
        let image = image_path(&id);
        let distances = match made.point.reference {
            Some(place) => Some(self.reference(place, &made)?.distances(&made.picture, &made.latents)?),
            None => None,
        };
        self.opened
            .folder
            .write(&image, &png_bytes(&made.picture, &text_chunks(&facts(&made, &self.provenance)))?)?;
        let latents = made.point.is_reference.then(|| latents_path(&id));
        if let Some(latents) = &latents {
            self.opened.folder.write(latents, &latents_bytes(&made.latents)?)?;
        }
        if let Some(masks) = &made.masks {
            let settings = &info.settings;
            let metadata = mask_metadata(&settings.method, &settings.options);
            self.opened.folder.write(&masks_path(&id), &masks_bytes(masks, metadata)?)?;
        }
        self.counted.0 += 1;
        let (count, total) = self.counted;
        let far = distances.as_ref().map_or(String::new(), |distances| match distances.psnr {
            Some(psnr) => format!(", {psnr:.1} dB"),
            None => ", equal".into(),
        });
        progress.say(&format!(
            "{count} of {total}: {} {} ({:.2} s a step, {}{far})",
            made.prompt.id,
            info.label,
            made.times.seconds_per_step,
            readable(made.flops.mean_tflop),
        ));
        let record = Record {
            format: FORMAT,
            id: id.clone(),
            point: info.id.clone(),
            label: info.label.clone(),
            prompt_id: made.prompt.id.clone(),
            prompt: made.prompt.prompt.clone(),
            seed: made.prompt.seed,
            config_hash: info.config_hash.clone(),
            settings: info.settings.clone(),
            flops: made.flops,
            tokens: made.tokens,
            times: made.times,
            distances,
            image,
            latents,
            provenance: self.provenance.clone(),
        };
        if made.point.is_reference {
            self.forget_but(&made.prompt.id);
            self.references
                .insert(made.place, Reference { id, picture: made.picture, latents: made.latents });
        }
        self.opened.folder.append(record)
    }
}

impl Archive<'_> {
    /// The unpruned image that an image is compared with: in memory, else in one of the run's folders.
    fn reference(&mut self, place: usize, made: &Made<'_>) -> Outcome<&Reference> {
        self.forget_but(&made.prompt.id);
        if !self.references.contains_key(&place) {
            let point = self.plan.points.get(place).map_or("", |point| point.info.id.as_str());
            let id = format!("{point}/{}", made.prompt.id);
            let Opened { folder, elsewhere, .. } = &self.opened;
            let own = folder.done().get(&id).map(|record| (folder.path(), record));
            let other = elsewhere.get(&id).map(|(folder, record)| (folder.as_path(), record));
            let missing = || Failure::run(format!("{id}: expected this image before those compared with it"));
            let (folder, record) = own.or(other).ok_or_else(missing)?;
            let latents = record.latents.as_ref().ok_or_else(missing)?;
            let files = (folder.join(&record.image), folder.join(latents));
            let like = (&made.picture, made.latents.shape);
            let read = Reference::read(&id, (&files.0, &files.1), like)?;
            self.references.insert(place, read);
        }
        self.references.get(&place).ok_or_else(|| Failure::run("expected an unpruned image"))
    }

    /// Another prompt's images are not needed any more.
    fn forget_but(&mut self, prompt: &str) {
        self.references.retain(|_, reference| reference.id.ends_with(&format!("/{prompt}")));
    }
}

/// What the picture says of itself.
fn facts(made: &Made<'_>, provenance: &Provenance) -> ImageFacts {
    let settings = made.point.info.settings.clone();
    ImageFacts {
        prompt: made.prompt.prompt.clone(),
        negative_prompt: settings.negative_prompt,
        steps: settings.steps,
        sampler: settings.scheduler,
        guidance_scale: settings.guidance_scale,
        strength: None,
        seed: made.prompt.seed,
        batch: (0, 1),
        width: settings.width,
        height: settings.height,
        model: settings.model,
        rng: settings.rng,
        rng_dtype: settings.rng_dtype,
        method: settings.method,
        options: settings.options,
        flops: (made.flops.mean_tflop * 1e12, made.flops.whole_tflop * 1e12),
        backend: provenance.backend.clone(),
        device: provenance.device.clone(),
        dtype: provenance.dtype.clone(),
    }
}

/// The plan on the standard output stream.
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

/// How `results.parquet` is made.
#[cfg(feature = "parquet")]
fn parquet_file() -> Outcome<ExtraFile> {
    Ok(("results.parquet", crate::experiment::columns::parquet_bytes))
}

/// The feature is not in this build.
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
