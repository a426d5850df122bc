//! A run's folder while images are made for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::engine::{FinishedBatch, FinishedImage, Sink};
use crate::failure::Outcome;
use crate::files::{ImageFacts, latents_bytes, mask_metadata, masks_bytes, png_bytes, text_chunks};
use crate::folder::RunFolder;
use crate::layout::{image_path, latents_path, masks_path};
use crate::listener::{Listener, Psnr, WrittenImage};
use crate::members::Members;
use crate::merge::begun_folders;
use crate::pictures::{Reference, ReferenceFiles, References, missing};
use crate::reading::{read_info, read_results, same_run};
use crate::record::{FORMAT, PromptLine, Provenance, Record, RunInfo};

/// What a caller does before the first file of a run is written.
pub type Before<'a> = Box<dyn FnOnce() -> Outcome + 'a>;

/// The records of the run's other folders, by id, each with its folder.
pub(super) type Elsewhere = BTreeMap<String, (PathBuf, Record)>;

/// The records of the run's other shards. Their number may have changed since they began.
pub(super) fn done_elsewhere(
    output: &Path,
    own: &RunFolder<'_>,
    prompts: &[PromptLine],
) -> Outcome<Elsewhere> {
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

/// A run's folder with the records of the run's other folders.
pub(super) struct Opened<'a> {
    pub(super) folder: RunFolder<'a>,
    pub(super) elsewhere: Elsewhere,
    pub(super) before: Option<Before<'a>>,
}

impl Opened<'_> {
    /// Calls `before` and writes the first files.
    pub(super) fn begin(&mut self) -> Outcome {
        self.before.take().map_or(Ok(()), |before| before())?;
        self.folder.begin()
    }

    /// The unpruned image with which an image is compared, from one of the run's folders.
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
pub(super) struct Archive<'a> {
    opened: Opened<'a>,
    provenance: Provenance,
    references: References,
    /// The number of images that exist.
    count: usize,
    /// The number of images that will exist at the end.
    total: usize,
    listener: &'a dyn Listener,
}

impl<'a> Archive<'a> {
    /// In an opened folder.
    pub(super) fn new(opened: Opened<'a>, provenance: Provenance, listener: &'a dyn Listener) -> Self {
        Self { opened, provenance, references: References::default(), count: 0, total: 0, listener }
    }

    /// Sets the number of images that exist, and the number that will exist at the end. A listener gets both.
    pub(super) fn expect(&mut self, count: usize, total: usize) {
        (self.count, self.total) = (count, total);
    }
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
