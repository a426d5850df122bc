//! `atedm train`: trains a small SD-XL.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atedm_core::plugin::Unpruned;
use atedm_core::{DType, Error};
use atedm_experiment::draw::{Cell, Sheet, SheetRow};
use atedm_experiment::files::{OutputFile, Picture, png_bytes};
use atedm_experiment::platform::cores;
use atedm_sdxl::architecture::{Folder, check_place, listed};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::output::remove_unfinished;
use atedm_sdxl::pipeline::{Pipeline, Request};
use atedm_sdxl::rng::RngKind;
use atedm_tch::Torch;
use atedm_tch::device::set_threads;
use atedm_training::scenes::Split;
use atedm_training::trainer::{Observer, Options, Part, Recipe, Trained, train};

use crate::args::{Activations, BackendKind, Device, TrainArgs};
use crate::failure::{Failure, Outcome};
use crate::progress::Progress;
use crate::{tell, threads};

/// Settings of the sample sheets: number of prompts, steps and guidance.
const SAMPLES: u64 = 8;
const STEPS: usize = 20;
const GUIDANCE: f64 = 4.0;

/// Trains the recipe, starting from the folder's states.
pub(crate) fn run(args: &TrainArgs) -> Outcome {
    if args.deterministic && args.device != Device::Cpu {
        return Err(Failure::usage(format!("--deterministic: expected --device cpu, got {}", args.device)));
    }
    let recipe = Recipe::read(&args.recipe)?;
    let device = atedm_tch::device::parse(&args.device.to_string())
        .map_err(|error| Failure::usage(error).within("--device"))?;
    let minutes = |name: &str, value: f64| {
        Duration::try_from_secs_f64(60.0 * value)
            .map_err(|_| Failure::usage(format!("{name}: expected minutes, got {value}")))
    };
    let options = Options {
        folder: args.out.clone(),
        device,
        dtype: match args.dtype {
            Activations::F32 => DType::F32,
            Activations::Bf16 => DType::BF16,
        },
        save_every: minutes("--save-every", args.save_every)?,
    };
    let quality = args.quality.as_ref().map(|file| {
        std::fs::read_to_string(file).map_err(|error| Failure::file(file, error).within("--quality"))
    });
    let quality = quality.transpose()?;
    let limit = args.stop_after.map(|value| minutes("--stop-after", value)).transpose()?;
    let model = args.out.join("model");
    check_place(&model)?;
    // remove the unfinished files of a killed training
    for folder in [&args.out, &model] {
        remove_unfinished(folder)?;
    }
    if device == atedm_tch::Device::Cpu {
        if let Some(threads) = threads::from_environment(BackendKind::Tch) {
            set_threads(threads)?;
        }
        atedm_tch::device::keep_freed_memory();
    }
    let mut watch = Watch {
        recipe: &recipe,
        quality,
        folder: args.out.clone(),
        device,
        started: Instant::now(),
        limit,
        quiet: args.quiet,
        course: None,
    };
    let trained = train(&recipe, &options, &mut watch)?;
    if let Some(trained) = &trained {
        watch.saved(trained)?;
    }
    if let Some(course) = &watch.course {
        course.bar.clear();
    }
    if !args.quiet {
        let model = args.out.join("model");
        match trained {
            Some(trained) => {
                tell::line(format_args!("wrote {}: {} steps trained", model.display(), trained.steps))
            }
            None => tell::line(format_args!("stopped; the same command goes on from {}", args.out.display())),
        }
    }
    Ok(())
}

/// The progress bar of one course, and its latest losses.
struct Course {
    part: Part,
    bar: Progress,
    sum: f64,
    count: u64,
    since: Instant,
}

/// Shows losses, ends the training after the time limit, and writes models and samples.
struct Watch<'a> {
    recipe: &'a Recipe,
    quality: Option<String>,
    folder: PathBuf,
    device: atedm_tch::Device,
    started: Instant,
    limit: Option<Duration>,
    quiet: bool,
    course: Option<Course>,
}

impl Observer for Watch<'_> {
    fn step(&mut self, part: Part, done: u64, steps: u64, loss: f64) -> ControlFlow<()> {
        if self.course.as_ref().is_none_or(|course| course.part != part) {
            let bar = Progress::new(steps as usize, self.quiet);
            bar.phase(part.name());
            self.course = Some(Course { part, bar, sum: 0.0, count: 0, since: Instant::now() });
        }
        if let Some(course) = &mut self.course {
            course.bar.done(done as usize);
            course.sum += loss;
            course.count += 1;
            if course.count == 50 || done == steps {
                let count = course.count as f64;
                let pace = course.since.elapsed().as_secs_f64() / count;
                let mean = course.sum / count;
                course
                    .bar
                    .say(&format!("{} {done}/{steps}: loss {mean:.5}, {pace:.2} s a step", part.name()));
                (course.sum, course.count, course.since) = (0.0, 0, Instant::now());
            }
        }
        match self.limit {
            Some(limit) if self.started.elapsed() >= limit => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn saved(&mut self, trained: &Trained) -> atedm_core::Result<()> {
        let model = self.folder.join("model");
        let card = trained.card(self.recipe, self.quality.as_deref())?;
        let folder = Folder {
            architecture: &trained.model,
            vocabulary: &trained.vocabulary,
            name: &self.recipe.name,
            card: &card,
            dtype: DType::F16,
        };
        folder.write(&model, listed(&trained.weights))?;
        // The workers of the training have one thread each, and they wait meanwhile.
        set_threads(cores())?;
        let sampled = self.sample(&model, trained.steps);
        set_threads(1)?;
        sampled
            .map_err(|failure| Error::config(format!("samples of {}", model.display()), failure.to_string()))
    }
}

impl Watch<'_> {
    /// Draws a sheet of held-out prompts with the current model.
    fn sample(&self, model: &Path, step: u64) -> Outcome {
        let checkpoint = Checkpoint::open(model, OpenOptions::default())?;
        let pipeline = Pipeline::<Torch>::load(&checkpoint, DType::F32, &self.device)?;
        let source = self.recipe.data.source(self.recipe.seed)?;
        let captions: Vec<String> =
            (0..SAMPLES).map(|index| source.scene(Split::HeldOut, index).caption()).collect();
        let request = Request {
            steps: STEPS,
            guidance_scale: GUIDANCE,
            rng: RngKind::ChaCha,
            ..Request::new(&captions)
        };
        let output = pipeline.generate(&request, &mut Unpruned, &mut |_| ControlFlow::Continue(()))?;
        let Some(images) = &output.images else { return Ok(()) };
        let row = |(index, caption): (usize, &String)| {
            let picture = |rgb: Vec<u8>| Picture { width: images.width, height: images.height, rgb };
            let drawn = picture(images.rgb8(index).unwrap_or_default());
            let cell = Cell { picture: drawn, caption: String::new() };
            SheetRow { name: caption.clone(), cells: vec![cell] }
        };
        let sheet = Sheet {
            title: format!("{}, step {step}", self.recipe.name),
            columns: vec![String::new()],
            rows: captions.iter().enumerate().map(row).collect(),
        };
        let folder = self.folder.join("samples");
        std::fs::create_dir_all(&folder).map_err(|error| Failure::file(&folder, error))?;
        let file = OutputFile::prepare(&folder.join(format!("{step:06}.png")))?;
        file.write(&png_bytes(&sheet.draw(128), &[])?)
    }
}
