//! `atedm masks`: draws the paper's Fig. 8 and Fig. 5 from a real run.

use atedm_core::plugin::{MaskEntry, MaskKey, MaskSet};

use atedm_experiment::draw::{Base, Cell, Chart, Mask, Series, Sheet, SheetRow, View, enlarge, overlay};
use atedm_experiment::files::{NamedFile, OutputDir, Picture, png_bytes};
use atedm_experiment::observe::{Variance, Watch};

use crate::Extension;
use crate::args::MasksArgs;
use crate::failure::{Failure, Outcome};
use crate::progress::Progress;
use crate::prune;
use crate::sample::Job;

/// The minimum length of an overlay's longer side, in pixels.
const OVERLAY: usize = 256;
/// The length of a cell's longer side on the contact sheet, in pixels.
const CELL: usize = 160;
/// The number of columns on the contact sheet if the user chooses no steps.
const STEPS_SHOWN: usize = 5;

/// Makes the image and draws the figures.
pub(crate) fn run(args: &MasksArgs, extension: &impl Extension) -> Outcome {
    let mut typed = args.prune.clone();
    if typed.prune_config.is_none() {
        typed.prune.get_or_insert_with(|| "at-edm".into());
    }
    let spec = prune::spec(&typed)?;
    let steps = steps_shown(&args.steps_shown, args.sample.steps)?;
    let dir = OutputDir::prepare(&args.output_dir)?;
    let progress = Progress::new(args.sample.steps, args.quiet);
    let masks_in = args.masks_in.as_deref();
    let job = Job::prepare(&args.sample, &args.engine, spec, masks_in, extension, &progress)?;
    let method = job.method();
    if method.is_none() && !args.variance {
        return Err(Failure::usage("--prune: expected a method that prunes, got none"));
    }
    let watch = Watch { masks: true, variance: args.variance, ..Watch::default() };
    let sampled = job.run(extension, watch, None, &progress)?;
    let watched = &sampled.watched;
    let masks = watched.masks.clone().unwrap_or_default();

    let mut files = Vec::new();
    for (image, picture) in sampled.pictures.iter().enumerate() {
        let prefix = if sampled.pictures.len() == 1 { String::new() } else { format!("{image}-") };
        files.push((format!("{prefix}image.png"), png_bytes(picture, &[])?));
        if method.is_none() {
            continue;
        }
        let row = watched.row_of(image as u64).ok_or_else(|| {
            Failure::run(format!(
                "--prune {}: expected pruning decisions, but the run made none",
                method.name
            ))
        })?;
        let gallery = Gallery { masks: &masks, picture: &enlarge(picture, OVERLAY), row, steps: &steps };
        let title = format!("{} | {}", method.name, args.sample.prompt.get(image).map_or("", String::as_str));
        let (singles, sheet) = gallery.draw(&job.block_names(), title)?;
        files.extend(singles.into_iter().map(|(name, bytes)| (format!("{prefix}{name}"), bytes)));
        files.push((format!("{prefix}contact-sheet.png"), png_bytes(&sheet, &[])?));
    }
    if let Some(variance) = &watched.variance {
        files.push(("variance.svg".into(), variance_chart(variance).into_bytes()));
    }
    dir.write(&files)?;
    progress.say(&format!("wrote {} files to {}", files.len(), dir.path().display()));
    Ok(())
}

/// The steps that the user chose, or some that are spread over the whole run.
fn steps_shown(asked: &[usize], steps: usize) -> Outcome<Vec<usize>> {
    if let Some(beyond) = asked.iter().find(|&&step| step >= steps) {
        let last = steps - 1;
        return Err(Failure::usage(format!("--steps-shown: expected steps from 0 to {last}, got {beyond}")));
    }
    let mut shown = asked.to_vec();
    if shown.is_empty() {
        let columns = STEPS_SHOWN.min(steps);
        shown = (0..columns).map(|index| index * (steps - 1) / (columns - 1).max(1)).collect();
    }
    shown.sort_unstable();
    shown.dedup();
    Ok(shown)
}

/// Overlays of one image.
struct Gallery<'a> {
    masks: &'a MaskSet,
    picture: &'a Picture,
    row: usize,
    steps: &'a [usize],
}

impl Gallery<'_> {
    /// Every overlay as a PNG file with its name, and a sheet with one row per block and one column per step.
    fn draw(&self, blocks: &[String], title: String) -> Outcome<(Vec<NamedFile>, Picture)> {
        let mut files = Vec::new();
        let columns = self.steps.iter().map(|step| format!("step {step}")).collect();
        let mut sheet = Sheet { title, columns, rows: Vec::new() };
        for block in blocks {
            let mut cells = Vec::new();
            for &step in self.steps {
                let decisions: Vec<(&MaskKey, &MaskEntry)> =
                    self.masks.of_step(step).filter(|(key, _)| key.block == *block).collect();
                let mut cell = Cell { picture: self.picture.clone(), caption: "not pruned".into() };
                for (key, entry) in decisions {
                    let Some(kept) = entry.kept_on_grid().into_iter().nth(self.row) else { continue };
                    let mask = Mask::from_positions(entry.grid.0, entry.grid.1, &kept);
                    let drawn = overlay(self.picture, &mask);
                    files.push((
                        format!("step-{step:03}-{block}-layer-{}.png", key.layer),
                        png_bytes(&drawn, &[])?,
                    ));
                    let tokens = entry.grid.0 * entry.grid.1;
                    cell = Cell { picture: drawn, caption: format!("{} of {tokens}", kept.len()) };
                }
                cells.push(cell);
            }
            sheet.rows.push(SheetRow { name: block.clone(), cells });
        }
        Ok((files, sheet.draw(CELL)))
    }
}

/// The paper's Fig. 5: one line per resolution level.
fn variance_chart(variance: &Variance) -> String {
    let series = variance.by_level().into_iter();
    let chart = Chart {
        title: "Variance of self-attention maps".into(),
        x_label: "denoising step".into(),
        y_label: "variance of the map's entries".into(),
        base: Base::Zero,
        series: series
            .enumerate()
            .map(|(colour, (level, points))| Series::line(format!("level {level}"), colour, points))
            .collect(),
    };
    chart.to_svg(View::Wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_spread_or_as_asked() {
        assert_eq!(steps_shown(&[], 50).unwrap(), [0, 12, 24, 36, 49]);
        assert_eq!(steps_shown(&[], 1).unwrap(), [0]);
        assert_eq!(steps_shown(&[], 3).unwrap(), [0, 1, 2]);
        assert_eq!(steps_shown(&[7, 3, 7], 8).unwrap(), [3, 7]);
        assert!(steps_shown(&[8], 8).is_err());
    }
}
