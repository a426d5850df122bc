//! A run made ready before any weight is read: every point's options checked, its budget solved, its costs known; every
//! prompt with its seed.

use std::collections::HashMap;

use atedm_core::DType;
use atedm_core::plugin::{Registry, Tau};
use atedm_core::reference::NdTensor;
use atedm_sdxl::rng::{NoiseDType, RngKind};
use atedm_sdxl::schedulers::{SamplerChoice, SchedulerConfig};
use serde::Serialize;
use serde_json::{Map, Value};

use super::config::Sampling;
use super::grid::{Point, slug};
use super::inputs::{Inputs, digest};
use super::members::LONGEST_ID;
use super::record::{FORMAT, PointInfo, PromptLine, RunInfo, Settings};
use crate::args::{EngineArgs, RngName};
use crate::failure::{Failure, Outcome};
use crate::method::{Method, Workload};
use crate::prune::PruneSpec;

/// The model that a plan is for.
pub(crate) struct Ground<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Width and height in pixels.
    pub(crate) size: (usize, usize),
    /// What costs depend on; its steps are each point's own.
    pub(crate) work: Workload<'a>,
    /// The checkpoint's scheduler; SD-XL's where there is no checkpoint.
    pub(crate) scheduler: &'a SchedulerConfig,
    /// Hashes of its files, and of what else every image starts from.
    pub(crate) inputs: &'a Inputs,
}

/// Images of a run at most.
const MOST_IMAGES: usize = 10_000_000;

/// A point that is ready to run.
#[derive(Debug, Clone)]
pub(crate) struct PlannedPoint {
    pub(crate) info: PointInfo,
    pub(crate) method: Method,
    pub(crate) sampler: Option<SamplerChoice>,
    /// The point whose images this one's are compared with, by its place in [`Plan::points`].
    pub(crate) reference: Option<usize>,
    /// Whether other points are compared with it.
    pub(crate) is_reference: bool,
}

/// A whole run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) title: String,
    /// Those that others are compared with come first.
    pub(crate) points: Vec<PlannedPoint>,
    pub(crate) prompts: Vec<PromptLine>,
    pub(crate) rng: RngName,
    pub(crate) noise_dtype: NoiseDType,
    pub(crate) vae_tiling: Option<usize>,
    /// Ids of the prompts whose kept sets are stored.
    pub(crate) masks: Vec<String>,
    pub(crate) run_hash: String,
}

/// What a plan is made of, beside its points.
pub(crate) struct Outline {
    pub(crate) title: String,
    pub(crate) prompts: Vec<PromptLine>,
    pub(crate) rng: RngName,
    pub(crate) noise_dtype: NoiseDType,
    pub(crate) vae_tiling: Option<usize>,
    /// Ids of the prompts whose kept sets are stored: beside the images, which they do not change.
    pub(crate) masks: Vec<String>,
    /// Whether unpruned images are added where needed, and others compared with them.
    pub(crate) distances: bool,
}

impl Plan {
    /// Checks every point against the model and the registry.
    pub(crate) fn new(
        outline: Outline,
        mut points: Vec<Point>,
        ground: &Ground<'_>,
        engine: &EngineArgs,
        registry: &Registry<NdTensor>,
    ) -> Outcome<Self> {
        if outline.distances {
            add_references(&mut points);
        }
        let images = points.len().saturating_mul(outline.prompts.len());
        if images > MOST_IMAGES {
            return Err(Failure::usage(format!(
                "expected at most {MOST_IMAGES} images, got {} points and {} prompts",
                points.len(),
                outline.prompts.len()
            )));
        }
        let reference_of = |point: &Point| {
            let found = points.iter().position(|other| other.is_whole() && other.sampling == point.sampling);
            found.filter(|_| outline.distances && !point.is_whole())
        };
        let references: Vec<Option<usize>> = points.iter().map(reference_of).collect();
        let ids = ids(&points)?;
        let mut planned = Vec::with_capacity(points.len());
        for ((point, reference), id) in points.iter().zip(&references).zip(&ids) {
            let mut ready = plan_point(point, id, (&outline, ground, engine), registry)
                .map_err(|failure| failure.within(&point.label))?;
            ready.reference = *reference;
            ready.info.reference = reference.and_then(|place| ids.get(place).cloned());
            ready.is_reference = references.contains(&Some(planned.len()));
            planned.push(ready);
        }
        let Outline { title, prompts, rng, noise_dtype, vae_tiling, masks, .. } = outline;
        let hashes: Vec<(&str, &str)> =
            planned.iter().map(|point| (point.info.id.as_str(), point.info.config_hash.as_str())).collect();
        let run_hash = hash(&(FORMAT, hashes, &prompts, vae_tiling))?;
        Ok(Self { points: planned, title, prompts, rng, noise_dtype, vae_tiling, masks, run_hash })
    }

    /// That no two points make the same images, whatever they are called.
    pub(crate) fn check_each_once(&self) -> Outcome {
        let mut seen: HashMap<String, &str> = HashMap::new();
        for point in &self.points {
            let info = &point.info;
            if let Some(other) = seen.insert(canonical(point)?, &info.label) {
                return Err(Failure::usage(format!(
                    "grid: {other:?} and {:?} are the same run: every setting of theirs is equal",
                    info.label
                )));
            }
        }
        Ok(())
    }

    /// What `run.json` says.
    pub(crate) fn info(&self, shard: Option<[usize; 2]>) -> RunInfo {
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

/// Puts the unpruned model in front for every sampling that has pruned points, and moves it there where the grid has it.
fn add_references(points: &mut Vec<Point>) {
    let mut front: Vec<Point> = Vec::new();
    for point in points.iter().filter(|point| !point.is_whole()) {
        if front.iter().any(|reference| reference.sampling == point.sampling) {
            continue;
        }
        let own = points.iter().find(|other| other.is_whole() && other.sampling == point.sampling);
        let mut reference = own.cloned().unwrap_or_else(|| unpruned(point));
        // What varies may not tell them apart: entries have their own sampling too.
        if own.is_none() && points.iter().chain(&front).any(|other| other.label == reference.label) {
            let Sampling { steps, guidance_scale, scheduler, .. } = &point.sampling;
            let scheduler = scheduler.map_or(String::new(), |choice| format!(" scheduler={choice}"));
            reference.label = format!("none steps={steps} guidance_scale={guidance_scale}{scheduler}");
        }
        front.push(reference);
    }
    let rest = points.iter().filter(|point| !front.contains(point)).cloned();
    *points = front.iter().cloned().chain(rest).collect();
}

/// The unpruned model, sampled as `point`.
fn unpruned(point: &Point) -> Point {
    let sampled =
        |key: &&String| matches!(key.as_str(), "steps" | "guidance_scale" | "scheduler" | "attention");
    let kept: Map<String, Value> = point
        .varied
        .iter()
        .filter(|(key, _)| sampled(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let words = kept.iter().map(|(key, value)| match value {
        Value::String(text) => format!(" {key}={text}"),
        other => format!(" {key}={other}"),
    });
    Point {
        label: format!("none{}", words.collect::<String>()),
        grid: "none".into(),
        varied: kept,
        spec: PruneSpec { method: "none".into(), options: Map::new() },
        sampling: point.sampling.clone(),
        budget_tflops: None,
    }
}

/// Each point's id, from its label.
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
        // Some file systems do not tell a from A.
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

/// The hash of what settings do: presets are their settings, and a share of the steps is a number of them.
fn canonical(point: &PlannedPoint) -> Outcome<String> {
    let mut settings = point.info.settings.clone();
    if let Some(family) = point.method.plan().family() {
        settings.method = family.into();
    }
    whole_tau(&mut settings.options, settings.steps);
    hash(&settings)
}

/// Writes every `tau` as a number of steps: a method's own, and those of a stack's members in their tables.
fn whole_tau(options: &mut Value, steps: usize) {
    let Value::Object(table) = options else { return };
    for (key, value) in table {
        match serde_json::from_value::<Tau>(value.clone()) {
            Ok(share) if key == "tau" => *value = share.steps(steps).into(),
            _ => whole_tau(value, steps),
        }
    }
}

fn plan_point(
    point: &Point,
    id: &str,
    (outline, ground, engine): (&Outline, &Ground<'_>, &EngineArgs),
    registry: &Registry<NdTensor>,
) -> Outcome<PlannedPoint> {
    let sampling = &point.sampling;
    ground.scheduler.build::<NdTensor>(sampling.scheduler, sampling.steps)?;
    let work = Workload { steps: sampling.steps, sampler: sampling.scheduler, ..ground.work };
    let method = Method::resolve(&point.spec, &work, registry.catalogue(), Some(outline.rng))?;
    method.check(registry)?;
    let planned = method.step_tflops(&work)?;
    let settings = Settings {
        model: ground.name.to_string(),
        method: method.name.clone(),
        options: method.settings.clone(),
        steps: sampling.steps,
        scheduler: match sampling.scheduler {
            Some(choice) => choice.name().to_string(),
            None => ground.scheduler.class_name.clone(),
        },
        guidance_scale: sampling.guidance_scale,
        negative_prompt: sampling.negative_prompt.clone(),
        width: ground.size.0,
        height: ground.size.1,
        rng: outline.rng.name().to_string(),
        rng_dtype: RngKind::from(outline.rng)
            .dtype(outline.noise_dtype.beside(engine.dtype.into()))
            .to_string(),
        attention: sampling.attention,
        inputs: ground.inputs.clone(),
    };
    let dtype = DType::from(engine.dtype).to_string();
    Ok(PlannedPoint {
        info: PointInfo {
            id: id.to_string(),
            label: point.label.clone(),
            grid: point.grid.clone(),
            varied: Value::Object(point.varied.clone()),
            config_hash: hash(&(&settings, engine.backend.name(), dtype))?,
            settings,
            budget_tflops: point.budget_tflops,
            planned_tflop: planned.map(|steps| steps.iter().sum::<f64>() / steps.len().max(1) as f64),
            whole_tflop: work.whole_tflop()?,
            reference: None,
        },
        method,
        sampler: sampling.scheduler,
        reference: None,
        is_reference: false,
    })
}

/// 16 hexadecimal digits of the SHA-256 of a value's JSON with sorted keys.
fn hash(value: &impl Serialize) -> Outcome<String> {
    let json = sorted(serde_json::to_value(value).map_err(Failure::run)?);
    Ok(digest(json.to_string().as_bytes()))
}

/// The same with every table's keys in order, whatever the library's own order is.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(table) => {
            let mut entries: Vec<(String, Value)> =
                table.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
