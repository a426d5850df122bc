//! `atedm generate`: makes images from prompts.

use std::path::{Path, PathBuf};

use atedm_experiment::files::{
    OutputFile, check_distinct, latents_bytes, mask_metadata, masks_bytes, png_bytes, text_chunks,
};
use atedm_experiment::observe::Watch;
use atedm_experiment::preview::{Preview, Previews};
use atedm_sdxl::flops::readable;

use crate::Extension;
use crate::args::{GenerateArgs, OutputArgs, ReplayArgs};
use crate::failure::{Failure, Outcome};
use crate::progress::Progress;
use crate::prune;
use crate::sample::{Job, Sampled};

/// Makes the images.
pub(crate) fn run(args: &GenerateArgs, extension: &impl Extension) -> Outcome {
    let spec = prune::spec(&args.prune)?;
    let outputs = Outputs::prepare(&args.output, &args.replay, args.sample.prompt.len())?;
    let progress = Progress::new(args.sample.steps, args.output.quiet);
    let masks_in = args.replay.masks_in.as_deref();
    let job = Job::prepare(&args.sample, &args.engine, spec, masks_in, extension, &progress)?;
    if args.replay.masks_out.is_some() && job.method().is_none() {
        return Err(Failure::usage("--masks-out: expected a pruning method, got --prune none"));
    }
    let watch = Watch { masks: args.replay.masks_out.is_some(), ..Watch::default() };
    let show = |preview: Preview| outputs.show(&preview);
    let previews = args.output.preview.map(|every| Previews {
        every,
        vae: args.output.preview_vae.clone(),
        show: &show,
    });
    let sampled = job.run(extension, watch, previews, &progress)?;

    for (index, (file, picture)) in outputs.pictures.iter().zip(&sampled.pictures).enumerate() {
        let chunks =
            if args.output.no_metadata { Vec::new() } else { text_chunks(&job.facts(index, &sampled)) };
        file.write(&png_bytes(picture, &chunks)?)?;
    }
    if let Some(file) = &outputs.latents {
        file.write(&latents_bytes(&sampled.latents)?)?;
    }
    if let (Some(file), Some(masks)) = (&outputs.masks, &sampled.watched.masks) {
        let method = job.method();
        file.write(&masks_bytes(masks, mask_metadata(&method.name, &method.settings))?)?;
    }
    summarise(&job, &sampled, &outputs, &progress);
    Ok(())
}

/// The files that the command will write.
struct Outputs {
    pictures: Vec<OutputFile>,
    latents: Option<OutputFile>,
    masks: Option<OutputFile>,
}

impl Outputs {
    /// Checks before the run that the files can be written.
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

    /// Writes the previews of a step beside the pictures.
    fn show(&self, preview: &Preview) -> Outcome {
        for (file, picture) in self.pictures.iter().zip(&preview.pictures) {
            let file = OutputFile::prepare(&preview_path(file.path(), preview.steps))?;
            file.write(&png_bytes(picture, &[])?)?;
        }
        Ok(())
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

/// The preview of a picture after so many steps: `OUT.preview-0010.png`.
fn preview_path(picture: &Path, steps: usize) -> PathBuf {
    let stem = picture.file_stem().unwrap_or_default().to_string_lossy();
    picture.with_file_name(format!("{stem}.preview-{steps:04}.png"))
}

fn summarise(job: &Job<'_>, sampled: &Sampled, outputs: &Outputs, progress: &Progress) {
    let names: Vec<String> = outputs.pictures.iter().map(|file| file.path().display().to_string()).collect();
    let mut line = format!("wrote {} ({:.2} s a step", names.join(", "), sampled.times.seconds_per_step);
    line.push_str(&format!(", U-Net {}", readable(sampled.flops.mean_tflop)));
    if !job.method().is_none() {
        line.push_str(&format!(" of {}", readable(sampled.flops.whole_tflop)));
    }
    progress.say(&format!("{line})"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_lie_beside_their_picture() {
        assert_eq!(preview_path(Path::new("a/fox.b.png"), 10), Path::new("a/fox.b.preview-0010.png"));
        assert_eq!(preview_path(Path::new("fox-1"), 12_345), Path::new("fox-1.preview-12345.png"));
    }

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
