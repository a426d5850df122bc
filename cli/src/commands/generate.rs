//! `atedm generate`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::Extension;
use crate::args::{GenerateArgs, OutputArgs, ReplayArgs};
use crate::failure::{Failure, Outcome};
use crate::files::{
    OutputFile, check_distinct, latents_bytes, mask_metadata, masks_bytes, png_bytes, text_chunks,
};
use crate::observe::Watcher;
use crate::progress::Progress;
use crate::prune::PruneSpec;
use crate::sample::{Job, Sampled};
use atedm_sdxl::flops::readable;

/// Makes the images.
pub(crate) fn run(args: &GenerateArgs, extension: &impl Extension) -> Outcome {
    let spec = PruneSpec::from_args(&args.prune)?;
    let outputs = Outputs::prepare(&args.output, &args.replay, args.sample.prompt.len())?;
    let job = Job::prepare(&args.sample, &args.engine, &spec, args.replay.masks_in.as_deref(), extension)?;
    if args.replay.masks_out.is_some() && job.method.is_none() {
        return Err(Failure::usage("--masks-out: expected a pruning method, got --prune none"));
    }
    let watcher = args.replay.masks_out.as_ref().map(|_| Arc::new(Mutex::new(Watcher::new(false))));
    let mut progress = Progress::new(args.sample.steps, args.output.quiet);
    let sampled = job.run(extension, watcher.clone(), &mut progress)?;
    let masks = watcher.and_then(|watcher| watcher.lock().ok().map(|mut watcher| watcher.take_masks()));

    for (index, (file, picture)) in outputs.pictures.iter().zip(&sampled.pictures).enumerate() {
        let chunks =
            if args.output.no_metadata { Vec::new() } else { text_chunks(&job.facts(index, &sampled)?) };
        file.write(&png_bytes(picture, &chunks)?)?;
    }
    if let Some(file) = &outputs.latents {
        file.write(&latents_bytes(&sampled.latents)?)?;
    }
    if let (Some(file), Some(masks)) = (&outputs.masks, masks) {
        file.write(&masks_bytes(&masks, mask_metadata(&job.method.name, &job.method.settings))?)?;
    }
    summarise(&job, &sampled, &outputs, &progress)
}

/// Every file that the command will write.
struct Outputs {
    pictures: Vec<OutputFile>,
    latents: Option<OutputFile>,
    masks: Option<OutputFile>,
}

impl Outputs {
    /// Finds out before the run whether they can be written.
    fn prepare(args: &OutputArgs, replay: &ReplayArgs, images: usize) -> Outcome<Self> {
        let prepare = |path: &PathBuf| OutputFile::prepare(path);
        let outputs = Self {
            pictures: picture_paths(&args.output, images).iter().map(prepare).collect::<Outcome<_>>()?,
            latents: args.save_latents.as_ref().map(prepare).transpose()?,
            masks: replay.masks_out.as_ref().map(prepare).transpose()?,
        };
        let all: Vec<&OutputFile> =
            outputs.pictures.iter().chain(&outputs.latents).chain(&outputs.masks).collect();
        check_distinct(&all)?;
        Ok(outputs)
    }
}

/// `OUT.png` for one image, `OUT-0.png`, `OUT-1.png`, … for several.
fn picture_paths(output: &Path, images: usize) -> Vec<PathBuf> {
    if images == 1 {
        return vec![output.to_path_buf()];
    }
    let stem = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = output.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    (0..images).map(|index| output.with_file_name(format!("{stem}-{index}{extension}"))).collect()
}

fn summarise(job: &Job<'_>, sampled: &Sampled, outputs: &Outputs, progress: &Progress) -> Outcome {
    let names: Vec<String> = outputs.pictures.iter().map(|file| file.path().display().to_string()).collect();
    let mut line = format!("wrote {} ({:.2} s a step", names.join(", "), sampled.seconds_a_step);
    line.push_str(&format!(", U-Net {}", readable(sampled.mean_tflop)));
    if !job.method.is_none() {
        line.push_str(&format!(" of {}", readable(job.whole_tflop()?)));
    }
    progress.say(&format!("{line})"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_pictures_are_numbered() {
        assert_eq!(picture_paths(Path::new("a/fox.png"), 1), [Path::new("a/fox.png")]);
        assert_eq!(
            picture_paths(Path::new("a/fox.png"), 2),
            [Path::new("a/fox-0.png"), Path::new("a/fox-1.png")]
        );
        assert_eq!(picture_paths(Path::new("fox"), 2), [Path::new("fox-0"), Path::new("fox-1")]);
    }
}
