//! Prepares a run before any weight is read. The options of every point are checked, its budget is solved and its costs
//! are known. Every prompt has its seed.

use std::collections::{BTreeMap, HashMap};

use atedm_core::AttentionOps;
use atedm_core::plugin::Registry;
use atedm_sdxl::prompt::PLAIN;
use atedm_sdxl::rng::{NoiseDType, RngKind};
use serde_json::{Map, Value};

use super::config::Sampling;
use super::grid::{Point, slug};
use super::hashes::{canonical, hash, run_hash};
use super::inputs::Inputs;
use super::loras;
use super::members::LONGEST_ID;
use super::record::{FORMAT, PointInfo, PromptLine, RunInfo, Settings, UsedControl, UsedLora};
use crate::budget::Unreachable;
use crate::control;
use crate::failure::{Failure, Outcome};
use crate::init_image::Strength;
use crate::listener::Listener;
use crate::method::{Method, Workload};
use crate::model::{Model, Size};
use crate::parts::Parts;
use crate::platform::Platform;
use crate::spec::{PruneSpec, in_label};
use crate::texts::{Lengths, Texts};
use crate::workload::mean_of;

/// The facts about the model that a plan needs.
#[derive(Debug, Clone)]
pub struct PlanInputs<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The files that replace parts of the model.
    pub parts: &'a Parts,
    /// The size of every image.
    pub size: Size,
    /// The properties that costs depend on. Each point replaces the steps by its own.
    pub work: Workload<'a>,
    /// What reads prompts. Without it, every prompt counts as one chunk and is not checked.
    pub texts: Option<&'a Texts>,
    /// The words of textual inversions, each with the hash of its file.
    pub embeddings: BTreeMap<String, String>,
    /// Hashes of the model's files, and of other inputs of all images.
    pub hashes: Inputs,
    /// The LoRAs that change the model's weights.
    pub loras: Vec<UsedLora>,
    /// What the model's ControlNet follows.
    pub control: Option<UsedControl>,
    /// The part of the schedule that runs, for runs that start from a picture. The steps of a ControlNet depend on it.
    pub strength: Option<Strength>,
}

impl<'a> PlanInputs<'a> {
    /// The facts of an opened model. `work` is its workload at `size`.
    pub fn of(model: &'a Model, size: Size, work: Workload<'a>, hashes: Inputs) -> Self {
        Self {
            model: model.name(),
            parts: model.parts(),
            size,
            work,
            texts: Some(model.texts()),
            embeddings: model.embeddings(),
            hashes,
            loras: loras::used(&model.checkpoint),
            control: None,
            strength: None,
        }
    }

    /// Checks that ControlNet and picture are both there or both absent.
    fn check_control(&self) -> Outcome {
        match (&self.work.unet.control, &self.control) {
            (Some(_), None) => {
                Err(Failure::usage("control-image: expected a picture, as a ControlNet is given"))
            }
            (None, Some(_)) => {
                Err(Failure::usage("controlnet: expected a ControlNet, as a control image is given"))
            }
            _ => Ok(()),
        }
    }
}

/// The options that all points of a run share.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The title of the run.
    pub title: String,
    /// The prompts with their seeds.
    pub prompts: Vec<PromptLine>,
    /// Generator of the noise.
    pub rng: RngKind,
    /// The dtype that the noise is drawn in.
    pub noise_dtype: NoiseDType,
    /// Width and height in pixels of the tiles in which images are decoded; `None` for whole images.
    pub vae_tiling: Option<usize>,
    /// Ids of the prompts whose kept sets are stored. This does not change the images.
    pub masks: Vec<String>,
    /// Whether unpruned images are added where needed, and the others compared with them.
    pub distances: bool,
    /// What happens to points whose budget no ratio meets.
    pub unreachable: Unreachable,
}

/// The largest number of images in a run.
const MOST_IMAGES: usize = 10_000_000;

/// A point that is ready to run.
#[derive(Debug, Clone)]
pub struct PlannedPoint {
    /// The point's entry in `run.json`.
    pub info: PointInfo,
    /// The method, with its budget solved.
    pub method: Method,
    /// The name of a sampler that replaces the checkpoint's.
    pub sampler: Option<String>,
    /// The index in [`Plan::points`] of the point with which this point's images are compared.
    pub reference: Option<usize>,
    /// Whether other points are compared with this one.
    pub is_reference: bool,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The title of the run.
    pub title: String,
    /// The points. Those that others are compared with come first.
    pub points: Vec<PlannedPoint>,
    /// The prompts with their seeds.
    pub prompts: Vec<PromptLine>,
    /// Generator of the noise.
    pub rng: RngKind,
    /// The dtype that the noise is drawn in.
    pub noise_dtype: NoiseDType,
    /// Width and height in pixels of the tiles in which images are decoded; `None` for whole images.
    pub vae_tiling: Option<usize>,
    /// Ids of the prompts whose kept sets are stored.
    pub masks: Vec<String>,
    /// Hash of everything that decides the results.
    pub run_hash: String,
}

impl Plan {
    /// Checks every point against the model and the registry.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the label of the wrong point, and its option or budget.
    pub fn new<T: AttentionOps>(
        options: RunOptions,
        mut points: Vec<Point>,
        inputs: &PlanInputs<'_>,
        platform: &Platform,
        registry: &Registry<T>,
        listener: &dyn Listener,
    ) -> Outcome<Self> {
        inputs.check_control()?;
        let planner = Planner::new(&options, inputs, platform, registry, listener);
        if options.unreachable == Unreachable::LeaveOut {
            points = planner.reachable(points)?;
        }
        if options.distances {
            add_references(&mut points);
        }
        let images = points.len().saturating_mul(options.prompts.len());
        if images > MOST_IMAGES {
            return Err(Failure::usage(format!(
                "expected at most {MOST_IMAGES} images, got {} points and {} prompts",
                points.len(),
                options.prompts.len()
            )));
        }
        let reference_of = |point: &Point| {
            let found = points.iter().position(|other| other.is_whole() && other.sampling == point.sampling);
            found.filter(|_| options.distances && !point.is_whole())
        };
        let references: Vec<Option<usize>> = points.iter().map(reference_of).collect();
        let ids = ids(&points)?;
        let mut planned = Vec::with_capacity(points.len());
        for ((point, reference), id) in points.iter().zip(&references).zip(&ids) {
            let mut ready = planner.point(point, id).map_err(|failure| failure.within(&point.label))?;
            ready.reference = *reference;
            ready.info.reference = reference.and_then(|place| ids.get(place).cloned());
            ready.is_reference = references.contains(&Some(planned.len()));
            planned.push(ready);
        }
        loras::warn(planned.iter().map(|point| &point.info.settings), inputs.work.scheduler, listener);
        Self::of(options, planned)
    }

    /// A plan of one point. Its errors need no label.
    ///
    /// # Errors
    /// The errors of [`Plan::new`].
    pub fn single<T: AttentionOps>(
        options: RunOptions,
        point: &Point,
        inputs: &PlanInputs<'_>,
        platform: &Platform,
        registry: &Registry<T>,
        listener: &dyn Listener,
    ) -> Outcome<Self> {
        inputs.check_control()?;
        let planner = Planner::new(&options, inputs, platform, registry, listener);
        let planned = vec![planner.point(point, &slug(&point.label))?];
        loras::warn(planned.iter().map(|point| &point.info.settings), inputs.work.scheduler, listener);
        Self::of(options, planned)
    }

    fn of(options: RunOptions, points: Vec<PlannedPoint>) -> Outcome<Self> {
        let RunOptions { title, prompts, rng, noise_dtype, vae_tiling, masks, .. } = options;
        let run_hash = run_hash(points.iter().map(|point| &point.info), &prompts, vae_tiling)?;
        Ok(Self { points, title, prompts, rng, noise_dtype, vae_tiling, masks, run_hash })
    }

    /// Checks that no two points make the same images, whatever their names.
    pub fn check_each_once(&self) -> Outcome {
        let mut seen: HashMap<String, &str> = HashMap::new();
        for point in &self.points {
            let info = &point.info;
            if let Some(other) =
                seen.insert(canonical(&info.settings, point.method.plan().family())?, &info.label)
            {
                return Err(Failure::usage(format!(
                    "grid: {other:?} and {:?} are the same run: every setting of theirs is equal",
                    info.label
                )));
            }
        }
        Ok(())
    }

    /// The content of `run.json`.
    pub fn info(&self, shard: Option<[usize; 2]>) -> RunInfo {
        RunInfo {
            format: FORMAT,
            run_hash: self.run_hash.clone(),
            title: self.title.clone(),
            points: self.points.iter().map(|point| point.info.clone()).collect(),
            prompts: self.prompts.len(),
            shard,
        }
    }
}

impl Point {
    /// Whether it is the unpruned model.
    fn is_whole(&self) -> bool {
        self.spec.method == "none"
    }
}

/// Puts the unpruned model in front, once for each sampling that has pruned points. If the grid has it already, it is
/// moved there.
fn add_references(points: &mut Vec<Point>) {
    let mut front: Vec<Point> = Vec::new();
    for point in points.iter().filter(|point| !point.is_whole()) {
        if front.iter().any(|reference| reference.sampling == point.sampling) {
            continue;
        }
        let own = points.iter().find(|other| other.is_whole() && other.sampling == point.sampling);
        let mut reference = own.cloned().unwrap_or_else(|| unpruned(point));
        // The varied values may not distinguish them, because entries have their own sampling too.
        if own.is_none() && points.iter().chain(&front).any(|other| other.label == reference.label) {
            let Sampling { steps, guidance_scale, guidance_rescale, scheduler, text, .. } = &point.sampling;
            let scheduler = scheduler.as_ref().map_or(String::new(), |name| format!(" scheduler={name}"));
            let rescale = match *guidance_rescale > 0.0 {
                true => format!(" guidance_rescale={guidance_rescale}"),
                false => String::new(),
            };
            let syntax = match text.syntax.as_str() {
                PLAIN => String::new(),
                name => format!(" prompt_syntax={name}"),
            };
            let skip = match text.clip_skip {
                0 => String::new(),
                layers => format!(" clip_skip={layers}"),
            };
            reference.label = format!(
                "none steps={steps} guidance_scale={guidance_scale}{rescale}{scheduler}{syntax}{skip}"
            );
        }
        front.push(reference);
    }
    let rest = points.iter().filter(|point| !front.contains(point)).cloned();
    *points = front.iter().cloned().chain(rest).collect();
}

/// The unpruned model, sampled as `point`.
fn unpruned(point: &Point) -> Point {
    const SAMPLED: [&str; 7] = [
        "steps",
        "guidance_scale",
        "guidance_rescale",
        "scheduler",
        "prompt_syntax",
        "clip_skip",
        "attention",
    ];
    let kept: Map<String, Value> = point
        .varied
        .iter()
        .filter(|(key, _)| SAMPLED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Point {
        label: format!("none{}", kept.iter().map(|(key, value)| in_label(key, value)).collect::<String>()),
        grid: "none".into(),
        varied: kept,
        spec: PruneSpec { method: "none".into(), options: Map::new() },
        sampling: point.sampling.clone(),
        budget_tflops: None,
    }
}

/// The id of each point, from its label.
fn ids(points: &[Point]) -> Outcome<Vec<String>> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut ids = Vec::with_capacity(points.len());
    for point in points {
        let id = slug(&point.label);
        if id.is_empty() || id.len() > LONGEST_ID {
            let (length, label) = (id.len(), &point.label);
            return Err(Failure::usage(format!(
                "grid: expected names of 1 to {LONGEST_ID} letters with what varies, got {length}: {label:?}"
            )));
        }
        // Some file systems do not distinguish a from A.
        if let Some(other) = seen.insert(id.to_ascii_lowercase(), &point.label) {
            return Err(Failure::usage(format!(
                "grid: {other:?} and {:?} have one name: give their entries names of their own",
                point.label
            )));
        }
        ids.push(id);
    }
    Ok(ids)
}

/// The data that a point is checked against.
struct Planner<'a, T: AttentionOps> {
    options: &'a RunOptions,
    inputs: &'a PlanInputs<'a>,
    platform: &'a Platform,
    registry: &'a Registry<T>,
    listener: &'a dyn Listener,
    lengths: Lengths<'a>,
}

impl<'a, T: AttentionOps> Planner<'a, T> {
    fn new(
        options: &'a RunOptions,
        inputs: &'a PlanInputs<'a>,
        platform: &'a Platform,
        registry: &'a Registry<T>,
        listener: &'a dyn Listener,
    ) -> Self {
        let prompts = options.prompts.iter().map(|prompt| prompt.prompt.as_str()).collect();
        let lengths = Lengths::new(inputs.texts, inputs.work.text, prompts);
        Self { options, inputs, platform, registry, listener, lengths }
    }

    /// What a point's costs depend on.
    fn workload<'b>(&'b self, sampling: &'b Sampling) -> Outcome<Workload<'b>> {
        let inputs = self.inputs;
        let work = Workload {
            steps: sampling.steps,
            sampler: sampling.scheduler.as_deref(),
            guided: inputs.work.unet.is_guided(sampling.guidance_scale),
            text: self.lengths.of(sampling)?,
            control: control::steps(inputs.control.as_ref(), inputs.strength, sampling.steps)?,
            ..inputs.work
        };
        work.build_sampler()?;
        Ok(work)
    }

    /// The points whose budget a ratio meets. The listener is warned of the others.
    fn reachable(&self, points: Vec<Point>) -> Outcome<Vec<Point>> {
        let catalogue = self.registry.catalogue();
        let (mut kept, mut left_out) = (Vec::with_capacity(points.len()), Vec::new());
        for point in points {
            let meets = || {
                let work = self.workload(&point.sampling)?;
                Method::can_meet_budget(&point.spec, &work, catalogue, Some(self.options.rng))
            };
            match meets().map_err(|failure| failure.within(&point.label))? {
                true => kept.push(point),
                false => left_out.push(point.label),
            }
        }
        if kept.is_empty() {
            return Err(Failure::usage("grid: no ratio meets the budget of any point"));
        }
        for label in left_out {
            self.listener.warning(&format!("{label}: left out: no ratio meets its budget"));
        }
        Ok(kept)
    }

    fn point(&self, point: &Point, id: &str) -> Outcome<PlannedPoint> {
        let Self { options, inputs, platform, registry, listener, .. } = self;
        let sampling = &point.sampling;
        let work = self.workload(sampling)?;
        let method = Method::resolve(&point.spec, &work, registry.catalogue(), Some(options.rng))?;
        method.remarks().iter().for_each(|remark| listener.warning(remark));
        method.check(registry)?;
        let (planned, whole) = (method.step_tflops(&work)?, work.whole_tflop()?);
        let settings = Settings {
            model: inputs.model.to_string(),
            parts: inputs.parts.clone(),
            method: method.name.clone(),
            options: method.settings.clone(),
            steps: sampling.steps,
            scheduler: match &sampling.scheduler {
                Some(name) => name.clone(),
                None => inputs.work.scheduler.class_name.clone(),
            },
            guidance_scale: sampling.guidance_scale,
            guidance_rescale: sampling.guidance_rescale,
            negative_prompt: sampling.negative_prompt.clone(),
            prompt_syntax: sampling.text.syntax.clone(),
            clip_skip: sampling.text.clip_skip,
            embeddings: inputs.embeddings.clone(),
            width: inputs.size.width,
            height: inputs.size.height,
            rng: options.rng.name().to_string(),
            rng_dtype: options.rng.dtype(options.noise_dtype.beside(platform.dtype)).to_string(),
            attention: sampling.attention,
            inputs: inputs.hashes.clone(),
            loras: inputs.loras.clone(),
            control: inputs.control.clone(),
        };
        let dtype = platform.dtype.to_string();
        Ok(PlannedPoint {
            info: PointInfo {
                id: id.to_string(),
                label: point.label.clone(),
                grid: point.grid.clone(),
                varied: Value::Object(point.varied.clone()),
                config_hash: hash(&(&settings, &platform.backend, dtype))?,
                settings,
                budget_tflops: point.budget_tflops.map(|budget| budget.tflops(whole)),
                planned_tflop: planned.map(|steps| mean_of(&steps, &work.evaluated_steps())),
                whole_tflop: whole,
                reference: None,
            },
            method,
            sampler: sampling.scheduler.clone(),
            reference: None,
            is_reference: false,
        })
    }
}
