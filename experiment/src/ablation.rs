//! A configuration's images in a folder: what is missing of them is made, by one machine or by several.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use atedm_core::AttentionOps;
use atedm_core::plugin::Registry;
use atedm_sdxl::pipeline::TextEncoders;

use crate::config::{Config, Origin};
use crate::engine::{Batch, FinishedBatch, FinishedImage, PlannedRun, Sink};
use crate::failure::{Failure, Outcome};
use crate::files::{ImageFacts, latents_bytes, mask_metadata, masks_bytes, png_bytes, text_chunks};
use crate::folder::{Beginning, RunFolder};
use crate::grid::points;
use crate::listener::{Listener, Psnr, WrittenImage};
use crate::members::{Members, image_path, inside, latents_path, masks_path};
use crate::merge::begun_folders;
use crate::model::{AskedPixels, AskedSize, Model};
use crate::observe::Watch;
use crate::pictures::{Reference, ReferenceFiles, References, missing};
use crate::plan::{Plan, PlanInputs, RunOptions};
use crate::platform::Platform;
use crate::prompts::seed_of;
use crate::reading::{read_info, read_results, same_run};
use crate::record::{FORMAT, PromptLine, Provenance, Record, RunInfo};
use crate::shard::Shard;
use crate::subject::Subject;

/// A configuration, and who wrote it.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Its text, as the run's folder keeps it.
    pub text: &'a str,
    /// Who wrote it.
    pub origin: Origin<'a>,
}

impl Written<'_> {
    /// The plan for a U-Net of which no weights need be there.
    ///
    /// # Errors
    /// What is wrong with the configuration, its writer in front.
    pub fn plan<T: AttentionOps>(
        &self,
        subject: Subject,
        platform: &Platform,
        registry: &Registry<T>,
        listener: &dyn Listener,
    ) -> Outcome<Plan> {
        let [width, height] = ["width", "height"].map(|key| self.origin.key(key));
        let (wide, high) = self.config.size;
        let asked = AskedSize {
            width: AskedPixels { key: &width, pixels: wide },
            height: AskedPixels { key: &height, pixels: high },
        };
        let subject = subject.sized(asked).map_err(|failure| self.origin.blamed(failure))?;
        let inputs = PlanInputs {
            model: &subject.name,
            size: subject.size,
            work: subject.workload(self.config.sampling.steps),
            hashes: subject.inputs(),
        };
        self.planned(inputs, platform, registry, listener)
    }

    fn planned<T: AttentionOps>(
        &self,
        inputs: PlanInputs<'_>,
        platform: &Platform,
        registry: &Registry<T>,
        listener: &dyn Listener,
    ) -> Outcome<Plan> {
        let plan = || {
            let points = points(self.config)?;
            let plan = Plan::new(options(self.config), points, &inputs, platform, registry, listener)?;
            plan.check_each_once()?;
            Ok(plan)
        };
        plan().map_err(|failure| self.origin.blamed(failure))
    }
}

/// What all points of a configuration have in common.
fn options(config: &Config) -> RunOptions {
    let prompts = config.prompts.iter().map(|prompt| PromptLine {
        id: prompt.id.clone(),
        prompt: prompt.text.clone(),
        seed: prompt.seed.unwrap_or_else(|| seed_of(config.seed, &prompt.id)),
    });
    RunOptions {
        title: config.title.clone(),
        prompts: prompts.collect(),
        rng: config.rng,
        noise_dtype: config.noise_dtype,
        vae_tiling: config.vae_tiling,
        masks: config.masks.clone(),
        distances: config.distances,
    }
}

/// What is done before the first file of a run is written.
pub type Before<'a> = Box<dyn FnOnce() -> Outcome + 'a>;

/// The images of a configuration in a folder.
pub struct Ablation<'a> {
    /// The configuration.
    pub written: Written<'a>,
    /// The checkpoint.
    pub model: &'a Model,
    /// What computes.
    pub platform: &'a Platform,
    /// The run's folder.
    pub output: &'a Path,
    /// Which prompts this process works on.
    pub shard: Shard,
    /// Whether to go on with what is in the folder.
    pub resume: bool,
    /// Who hears how it goes on.
    pub listener: &'a dyn Listener,
}

/// What became of an ablation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ablated {
    /// The folder of the images: the shard's, if there are several.
    pub folder: PathBuf,
    /// Images that were made.
    pub made: usize,
    /// Images that are there.
    pub total: usize,
}

impl<'a> Ablation<'a> {
    /// Plans the run and makes the images that are not there yet. `make` runs it on a backend ([`PlannedRun::make`]); it is not
    /// called if nothing is left to do. `before` is done before the first file of the run is written, when all that can be
    /// checked has been.
    ///
    /// # Errors
    /// What is wrong with the configuration or the folder, and what `before` and `make` report.
    pub fn run<T: AttentionOps>(
        self,
        registry: &Registry<T>,
        before: Before<'a>,
        make: impl FnOnce(PlannedRun<'_>, &mut dyn Sink) -> Outcome,
    ) -> Outcome<Ablated> {
        let plan = self.plan(registry)?;
        let path = match self.shard.is_whole() {
            true => self.output.to_path_buf(),
            false => inside(self.output, &format!("shard-{}-of-{}", self.shard.index, self.shard.count))?,
        };
        let info = plan.info((!self.shard.is_whole()).then_some([self.shard.index, self.shard.count]));
        let beginning = Beginning { config: self.written.text, info, prompts: &plan.prompts };
        let folder = RunFolder::open(&path, beginning, self.resume)?;
        let elsewhere = match self.resume {
            true => done_elsewhere(self.output, &folder, &plan.prompts)?,
            false => Elsewhere::new(),
        };
        let mut opened = Opened { folder, elsewhere, before: Some(before) };
        let Left { batches, total, images } = self.left(&plan, &opened);
        let folder = opened.folder.path().to_path_buf();
        if images == 0 {
            opened.begin()?;
            return Ok(Ablated { folder, made: 0, total });
        }
        let run = PlannedRun {
            plan: &plan,
            model: self.model,
            platform: self.platform,
            batches,
            init: None,
            replay: None,
            watch: Watch::TOKENS,
            encoders: TextEncoders::Kept,
            listener: self.listener,
        };
        run.check_memory()?;
        let mut archive = Archive {
            opened,
            provenance: self.platform.provenance(),
            references: References::default(),
            count: total - images,
            total,
            listener: self.listener,
        };
        make(run, &mut archive)?;
        Ok(Ablated { folder, made: images, total })
    }

    fn plan<T: AttentionOps>(&self, registry: &Registry<T>) -> Outcome<Plan> {
        let Written { config, origin, .. } = self.written;
        let [width, height, tiles] = ["width", "height", "vae_tiling"].map(|key| origin.key(key));
        let (wide, high) = config.size;
        let asked = AskedSize {
            width: AskedPixels { key: &width, pixels: wide },
            height: AskedPixels { key: &height, pixels: high },
        };
        let blamed = |failure: Failure| origin.blamed(failure);
        let size = self.model.size(asked).map_err(blamed)?;
        let tiles = AskedPixels { key: &tiles, pixels: config.vae_tiling };
        self.model.check_tiles(tiles).map_err(blamed)?;
        let inputs = PlanInputs {
            model: self.model.name(),
            size,
            work: self.model.workload(size, config.sampling.steps),
            hashes: self.model.inputs()?,
        };
        let plan = self.written.planned(inputs, self.platform, registry, self.listener)?;
        let texts = config.prompts.iter().map(|prompt| &prompt.text);
        self.model.warn_of_long_prompts(texts, self.listener)?;
        Ok(plan)
    }

    /// What is not there yet of this shard's images.
    fn left(&self, plan: &Plan, opened: &Opened<'_>) -> Left {
        let done: BTreeSet<&String> = opened.folder.done().keys().chain(opened.elsewhere.keys()).collect();
        let prompts: Vec<&PromptLine> =
            plan.prompts.iter().filter(|prompt| self.shard.takes(&prompt.id)).collect();
        let pending = |prompt: &PromptLine| -> Vec<usize> {
            let ids = plan.points.iter().map(|point| format!("{}/{}", point.info.id, prompt.id));
            ids.enumerate().filter(|(_, id)| !done.contains(id)).map(|(place, _)| place).collect()
        };
        let batch = |&prompt: &&PromptLine| Batch {
            prompts: vec![prompt.clone()],
            points: pending(prompt),
            noise: None,
        };
        let batches: Vec<Batch> =
            prompts.iter().map(batch).filter(|batch| !batch.points.is_empty()).collect();
        let images = batches.iter().map(|batch| batch.points.len()).sum();
        Left { batches, images, total: prompts.len() * plan.points.len() }
    }
}

/// What is to be made.
struct Left {
    batches: Vec<Batch>,
    /// Images in them.
    images: usize,
    /// Images that will be there in the end.
    total: usize,
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

    /// The unpruned image that an image is compared with, from one of the run's folders.
    fn reference(&self, id: &str, like: &FinishedImage<'_>) -> Outcome<Reference> {
        let own = self.folder.done().get(id).map(|record| (self.folder.path(), record));
        let other = self.elsewhere.get(id).map(|(folder, record)| (folder.as_path(), record));
        let (folder, record) = own.or(other).ok_or_else(|| missing(id))?;
        let latents = record.latents.as_ref().ok_or_else(|| missing(id))?;
        let (picture, latents) = (folder.join(&record.image), folder.join(latents));
        Reference::read(id, ReferenceFiles { picture: &picture, latents: &latents }, like)
    }
}

/// Writes images and their lines.
struct Archive<'a> {
    opened: Opened<'a>,
    provenance: Provenance,
    references: References,
    /// Images that are there.
    count: usize,
    /// Images that will be there in the end.
    total: usize,
    listener: &'a dyn Listener,
}

impl Sink for Archive<'_> {
    fn begin(&mut self) -> Outcome {
        self.opened.begin()
    }

    fn keep(&mut self, finished: FinishedBatch<'_>) -> Outcome {
        let image = finished.into_image()?;
        let (info, id) = (&image.point.info, image.id());
        let opened = &self.opened;
        let distances = self.references.distances(&image, |id| opened.reference(id, &image))?;
        let path = image_path(&id);
        let facts = ImageFacts::of(info, image.prompt, image.flops, &self.provenance);
        opened.folder.write(&path, &png_bytes(&image.picture, &text_chunks(&facts))?)?;
        let latents = image.point.is_reference.then(|| latents_path(&id));
        if let Some(latents) = &latents {
            opened.folder.write(latents, &latents_bytes(&image.latents)?)?;
        }
        if let Some(masks) = &image.masks {
            let metadata = mask_metadata(&info.settings.method, &info.settings.options);
            opened.folder.write(&masks_path(&id), &masks_bytes(masks, metadata)?)?;
        }
        self.count += 1;
        let written = WrittenImage {
            prompt: &image.prompt.id,
            label: &info.label,
            count: self.count,
            total: self.total,
            flops: image.flops,
            times: image.times,
            psnr: distances.as_ref().map(|distances| distances.psnr.map_or(Psnr::Equal, Psnr::Decibels)),
        };
        self.references.keep(&image);
        let record = Record {
            format: FORMAT,
            id,
            point: info.id.clone(),
            label: info.label.clone(),
            prompt_id: image.prompt.id.clone(),
            prompt: image.prompt.prompt.clone(),
            seed: image.prompt.seed,
            config_hash: info.config_hash.clone(),
            settings: info.settings.clone(),
            flops: image.flops,
            tokens: image.tokens,
            times: image.times,
            distances,
            image: path,
            latents,
            provenance: self.provenance.clone(),
        };
        self.opened.folder.append(record)?;
        self.listener.written(&written);
        Ok(())
    }
}
