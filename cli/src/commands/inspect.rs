//! `atedm inspect`: shows a checkpoint's blocks, what a configuration prunes in them at which steps, and the cost.

use atedm_core::DType;
use atedm_core::plugin::{LayerTokens, NestId};
use atedm_core::reference::NdTensor;
use atedm_experiment::extension::registry;
use atedm_experiment::memory::{AtOnce, readable as bytes, workload};
use atedm_experiment::method::{GUIDANCE_SCALE, Method, Workload};
use atedm_experiment::model::{Model, Size};
use atedm_sdxl::config::BlockInfo;
use atedm_sdxl::flops::{Rows, readable};
use atedm_sdxl::memory::Memory;
use serde_json::{Value, json};

use super::print::print;
use crate::Extension;
use crate::args::InspectArgs;
use crate::describe;
use crate::failure::{Failure, Outcome};
use crate::model::open;
use crate::{prune, tell};

/// Collects the facts and prints them.
pub(crate) fn run(args: &InspectArgs, extension: &impl Extension) -> Outcome {
    let spec = prune::spec(&args.prune)?;
    let model = open(&args.model, None)?;
    let size = model.size(args.size.asked())?;
    let work = model.workload(size, args.steps);
    let registry = registry::<NdTensor>(extension)?;
    let method = Method::resolve(&spec, &work, registry.catalogue(), None)?;
    method.remarks().iter().for_each(tell::warning);
    method.check(&registry)?;
    let report = Report::new(&model, size, work, &method)?;
    let text = if args.json {
        serde_json::to_string_pretty(&report.to_json()).map_err(Failure::run)?
    } else {
        report.to_text()
    };
    print(text.trim_end())
}

/// Consecutive steps with the same work.
struct Phase {
    steps: std::ops::Range<usize>,
    tflop: f64,
    rows: Rows,
    /// The nest that does not run.
    replaced: Option<NestId>,
    /// For each block, the tokens of its layers.
    layers: Vec<Vec<LayerTokens>>,
}

/// The data of the output.
struct Report<'a> {
    model: &'a Model,
    parts: Vec<(&'static str, String)>,
    size: Size,
    work: Workload<'a>,
    method: &'a Method,
    blocks: Vec<BlockInfo>,
    whole_tflop: f64,
    /// The ControlNet's part of `whole_tflop`.
    control_tflop: Option<f64>,
    memory: Memory,
    /// `None` if only a run can tell.
    phases: Option<Vec<Phase>>,
}

impl<'a> Report<'a> {
    fn new(model: &'a Model, size: Size, work: Workload<'a>, method: &'a Method) -> Outcome<Self> {
        let blocks = work.blocks();
        let phases = method.step_tflops(&work)?.map(|tflops| phases(method, &work, &tflops)).transpose()?;
        let from = |part: &str| model.parts().iter().find(|(option, _)| *option == part);
        let mut parts = describe::parts(&model.checkpoint)?;
        for (part, words) in &mut parts {
            if let Some((_, name)) = from(part) {
                words.push_str(&format!("; from {name}"));
            }
        }
        let one = AtOnce { images: 1, guidance_scale: GUIDANCE_SCALE, tile: None, dtype: DType::F32 };
        let memory = Memory::of(&model.checkpoint, &workload(&work, one)).map_err(Failure::run)?;
        let whole_tflop = work.whole_tflop()?;
        let alone = &work.unet.alone();
        let alone = Workload { unet: alone, ..work }.whole_tflop()?;
        Ok(Self {
            model,
            parts,
            size,
            work,
            method,
            whole_tflop,
            control_tflop: work.unet.control.as_ref().map(|_| whole_tflop - alone),
            memory,
            blocks,
            phases,
        })
    }

    fn mean_tflop(&self) -> Option<f64> {
        let phases = self.phases.as_ref()?;
        let sum: f64 = phases.iter().map(|phase| phase.tflop * phase.steps.len() as f64).sum();
        Some(sum / self.work.steps as f64)
    }

    /// The width of the column of block names.
    fn name_width(&self) -> usize {
        self.blocks.iter().map(|block| block.id.name().len()).fold(10, usize::max)
    }

    /// Bytes that the method stores between steps for one image in f32.
    fn held(&self) -> u64 {
        let rows = if self.work.guided { 2 } else { 1 };
        let values = self.method.plan().memory(&self.work.shape());
        values.saturating_mul(rows * DType::F32.size_in_bytes() as u64)
    }

    fn to_text(&self) -> String {
        let mut lines = vec![format!("checkpoint  {}", self.model.name())];
        lines.extend(self.parts.iter().map(|(part, words)| format!("  {part:<15} {words}")));
        lines.extend(
            describe::loras(&self.model.checkpoint).iter().map(|words| format!("  {:<15} {words}", "lora")),
        );
        let latents = self.work.latents;
        lines.push(String::new());
        lines.push(format!(
            "attention blocks at {} px (latents {} x {}, {} text tokens)",
            self.size, latents.width, latents.height, self.work.text
        ));
        let wide = self.name_width();
        lines.push(format!(
            "  {:<wide$} {:>5} {:>9} {:>7} {:>9} {:>6} {:>6}",
            "block", "level", "grid", "tokens", "channels", "heads", "depth"
        ));
        for block in &self.blocks {
            let grid = format!("{}x{}", block.grid.height, block.grid.width);
            lines.push(format!(
                "  {:<wide$} {:>5} {:>9} {:>7} {:>9} {:>6} {:>6}",
                block.id.name(),
                block.id.level,
                grid,
                block.grid.tokens(),
                block.channels,
                block.heads,
                block.depth
            ));
        }
        lines.push(String::new());
        lines.push(format!(
            "one U-Net evaluation, unpruned: {} (2 x MAC, one sample)",
            readable(self.whole_tflop)
        ));
        if let Some(control) = self.control_tflop {
            lines.push(format!("  of which the ControlNet: {}", readable(control)));
        }
        let Memory { text_encoders, unet, controlnet, vae, denoising, decoding } = self.memory;
        let weights = [unet, controlnet, vae].into_iter().fold(0, u64::saturating_add);
        let [text, weights, steps, picture] = [text_encoders, weights, denoising, decoding].map(bytes);
        lines.push(format!(
            "memory: about {} for one image in f32 (weights {weights}, and the largest of text encoders {text}, a step {steps}, decoding {picture})",
            bytes(self.memory.peak())
        ));
        self.pruning_lines(&mut lines);
        lines.join("\n")
    }

    fn pruning_lines(&self, lines: &mut Vec<String>) {
        if self.method.is_none() {
            return;
        }
        lines.push(String::new());
        lines.push(format!("pruning     {} over {} steps", self.method.name, self.work.steps));
        if let Value::Object(settings) = &self.method.settings {
            let pairs: Vec<String> =
                settings.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
            lines.push(format!("  {}", pairs.join(" ")));
        }
        let (Some(phases), Some(mean)) = (&self.phases, self.mean_tflop()) else {
            lines.push("  what it prunes and costs shows in a run only".into());
            return;
        };
        for phase in phases {
            let last = phase.steps.end.saturating_sub(1);
            let name = if phase.steps.len() == 1 {
                format!("step {last}")
            } else {
                format!("steps {}-{last}", phase.steps.start)
            };
            let rows = match phase.rows {
                Rows::All => "",
                Rows::Half => ", guidance has ended: half of the rows",
            };
            lines.push(format!("{name}: {} a step{rows}", readable(phase.tflop)));
            for (block, layers) in self.blocks.iter().zip(&phase.layers) {
                let words = match phase.replaced.filter(|nest| nest.contains(block.nest)) {
                    Some(nest) => format!("does not run: an earlier step's output of {nest} is used again"),
                    None => kept_words(block, layers),
                };
                lines.push(format!("  {:<wide$} {words}", block.id.name(), wide = self.name_width()));
            }
        }
        let saved = 100.0 * (1.0 - mean / self.whole_tflop);
        lines.push(format!("mean: {} a step, {saved:.1} % less than unpruned", readable(mean)));
        let held = self.held();
        if held > 0 {
            let words = bytes(held);
            lines.push(format!("held between steps: {words} for one image in f32"));
        }
    }

    fn to_json(&self) -> Value {
        let parts: serde_json::Map<String, Value> =
            self.parts.iter().map(|(part, words)| (part.to_string(), words.as_str().into())).collect();
        let blocks: Vec<Value> = self.blocks.iter().map(block_json).collect();
        let phases = self.phases.as_ref().map(|phases| {
            let phase = |phase: &Phase| {
                let layers: serde_json::Map<String, Value> = self
                    .blocks
                    .iter()
                    .zip(&phase.layers)
                    .map(|(b, layers)| (b.id.name(), layers_json(layers)))
                    .collect();
                json!({
                    "first_step": phase.steps.start,
                    "steps": phase.steps.len(),
                    "tflop": phase.tflop,
                    "rows": phase.rows.share(),
                    "replaced_nest": phase.replaced.map(|nest| nest.0),
                    "blocks": layers,
                })
            };
            phases.iter().map(phase).collect::<Vec<Value>>()
        });
        json!({
            "checkpoint": self.model.name(),
            "parts": parts,
            "loras": describe::loras(&self.model.checkpoint),
            "width": self.size.width,
            "height": self.size.height,
            "latents": [self.work.latents.height, self.work.latents.width],
            "text_tokens": self.work.text,
            "steps": self.work.steps,
            "blocks": blocks,
            "method": self.method.name,
            "options": self.method.settings,
            "flops_unit": "TFLOP: 2 x MAC, one sample, one U-Net evaluation; a step without guidance counts half",
            "unpruned_tflop": self.whole_tflop,
            "controlnet_tflop": self.control_tflop,
            "memory_unit": "bytes, one image in f32",
            "memory": {
                "peak": self.memory.peak(),
                "text_encoders": self.memory.text_encoders,
                "unet": self.memory.unet,
                "controlnet": self.memory.controlnet,
                "vae": self.memory.vae,
                "denoising": self.memory.denoising,
                "decoding": self.memory.decoding,
                "held_by_method": self.held(),
            },
            "mean_tflop": self.mean_tflop(),
            "phases": phases,
        })
    }
}

/// Joins neighbouring steps with equal token counts and as many rows.
fn phases(method: &Method, work: &Workload<'_>, tflops: &[f64]) -> Outcome<Vec<Phase>> {
    let blocks = work.blocks();
    let mut phases: Vec<Phase> = Vec::new();
    for (step, &tflop) in tflops.iter().enumerate() {
        let replaced = method.replaced(step, tflops.len());
        let layers =
            blocks.iter().map(|block| Ok(method.tokens(block, step, tflops.len())?.unwrap_or_default()));
        let layers = layers.collect::<Outcome<Vec<_>>>()?;
        let rows = method.rows(work, step);
        match phases.last_mut() {
            Some(phase) if phase.layers == layers && phase.replaced == replaced && phase.rows == rows => {
                phase.steps.end = step + 1;
            }
            _ => phases.push(Phase { steps: step..step + 1, tflop, rows, replaced, layers }),
        }
    }
    Ok(phases)
}

/// Describes where the stream shrinks, and to how many tokens: `1024 -> 379 from layer 1 on`.
fn kept_words(block: &BlockInfo, layers: &[LayerTokens]) -> String {
    let all = block.grid.tokens();
    let mut words = Vec::new();
    let mut stream = all;
    let idle: Vec<String> = layers.iter().map(idle_words).collect();
    let alike = idle.windows(2).all(|pair| pair[0] == pair[1]);
    for (index, (layer, idle)) in layers.iter().zip(&idle).enumerate() {
        match (idle.is_empty(), alike) {
            (true, _) => {}
            (false, true) if index == 0 => words.push(format!("no {idle} in any layer")),
            (false, true) => {}
            (false, false) => words.push(format!("no {idle} in layer {index}")),
        }
        let layer = &running(layer, stream);
        if layer.self_attention < stream {
            words.push(format!("{} from layer {index} on", layer.self_attention));
        }
        if layer.self_keys < layer.self_attention {
            words.push(format!("{} keys from layer {index} on", layer.self_keys));
        }
        if layer.feed_forward < layer.self_attention {
            words.push(format!("{} from layer {index}'s feed-forward on", layer.feed_forward));
        }
        stream = layer.feed_forward.min(layer.self_attention);
    }
    if words.is_empty() { format!("{all}, whole") } else { format!("{all}, {}", words.join(", ")) }
}

/// The sublayers of a layer that do not run, because an earlier output is reused.
fn idle_words(layer: &LayerTokens) -> String {
    let each = [
        ("self-attention", layer.self_attention),
        ("cross-attention", layer.cross_attention),
        ("feed-forward", layer.feed_forward),
    ];
    let idle: Vec<&str> = each.into_iter().filter(|(_, tokens)| *tokens == 0).map(|(name, _)| name).collect();
    idle.join(" and ")
}

/// The same layer, in which sublayers that do not run count as having the whole stream.
fn running(layer: &LayerTokens, stream: usize) -> LayerTokens {
    let or_all = |tokens: usize| if tokens == 0 { stream } else { tokens };
    LayerTokens {
        self_attention: or_all(layer.self_attention),
        self_keys: or_all(layer.self_keys),
        cross_attention: or_all(layer.cross_attention),
        feed_forward: or_all(layer.feed_forward),
    }
}

fn block_json(block: &BlockInfo) -> Value {
    json!({
        "name": block.id.name(),
        "level": block.id.level,
        "grid": [block.grid.height, block.grid.width],
        "tokens": block.grid.tokens(),
        "channels": block.channels,
        "heads": block.heads,
        "depth": block.depth,
    })
}

fn layers_json(layers: &[LayerTokens]) -> Value {
    let layer = |layer: &LayerTokens| json!({ "self_attention": layer.self_attention, "self_keys": layer.self_keys, "cross_attention": layer.cross_attention, "feed_forward": layer.feed_forward });
    layers.iter().map(layer).collect()
}

/// A value without quotes around text.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
