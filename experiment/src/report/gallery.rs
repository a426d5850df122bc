//! The images of a report: one row per prompt, one column per point; before and after; masks.

use std::path::Path;

use atedm_core::plugin::{MaskEntry, MaskKey, MaskSet};

use super::html::{data_uri, escaped, smaller};
use crate::draw::{Mask, enlarge, overlay};
use crate::failure::Outcome;
use crate::files::{Picture, read_masks, read_png};
use crate::gathered::{Gathered, StoredImage};
use crate::model::Size;
use crate::record::{PointInfo, PromptLine};
use atedm_sdxl::flops::readable;

/// Longer side of a mask overlay in pixels.
const OVERLAY: usize = 160;
/// Number of steps whose masks are shown: the first with masks, the middle one and the last one.
const MASK_STEPS: usize = 3;

/// The images to show.
#[derive(Debug, Clone)]
pub struct Shown<'a> {
    /// The prompts whose images the page shows.
    pub prompts: Vec<&'a PromptLine>,
    /// The largest length of their longer side, in pixels.
    pub pixels: usize,
}

/// The grid of images, and the masks below it.
pub(super) struct Gallery {
    pub(super) grid: String,
    /// Empty if the run stored no masks.
    pub(super) masks: String,
}

impl Gallery {
    /// Reads and draws the images to show.
    pub(super) fn new(run: &Gathered, shown: &Shown<'_>) -> Outcome<Self> {
        let heads =
            run.info.points.iter().map(|point| format!("<th scope=\"col\">{}</th>", escaped(&point.label)));
        let mut rows = String::new();
        let mut masks = String::new();
        for (row, prompt) in shown.prompts.iter().enumerate() {
            rows.push_str(&format!(
                "<tr><th scope=\"row\"><b>{}</b><br>{}<small>seed {}</small></th>",
                escaped(&prompt.id),
                escaped(&prompt.prompt),
                prompt.seed
            ));
            for (column, point) in run.info.points.iter().enumerate() {
                let Some(finished) = run.image(&point.id, &prompt.id) else {
                    rows.push_str("<td class=\"none\">not finished</td>");
                    continue;
                };
                let settings = &finished.record.settings;
                let picture = read_png(
                    &finished.folder.join(&finished.record.image),
                    Size { width: settings.width, height: settings.height },
                )?;
                let before =
                    reference_of(run, point, prompt).map(|reference| format!("image-{row}-{reference}"));
                rows.push_str(&cell(
                    Place { row, column },
                    finished,
                    &smaller(&picture, shown.pixels),
                    before,
                )?);
                if let Some(path) = finished.masks()? {
                    masks.push_str(&mask_section(finished, &picture, &path)?);
                }
            }
            rows.push_str("</tr>\n");
        }
        let grid = format!(
            "<div class=\"wide\" role=\"region\" aria-label=\"Image grid\" tabindex=\"0\"><table class=\"grid\">\
             <thead><tr><th scope=\"col\">prompt</th>{}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n",
            heads.collect::<String>()
        );
        Ok(Self { grid, masks })
    }
}

/// The column of the unpruned image for a point, if it is finished.
fn reference_of(run: &Gathered, point: &PointInfo, prompt: &PromptLine) -> Option<usize> {
    let reference = point.reference.as_ref()?;
    run.image(reference, &prompt.id)?;
    run.info.points.iter().position(|other| other.id == *reference)
}

/// The position of an image in the grid.
struct Place {
    row: usize,
    column: usize,
}

fn cell(
    Place { row, column }: Place,
    finished: &StoredImage,
    picture: &Picture,
    before: Option<String>,
) -> Outcome<String> {
    let record = &finished.record;
    let name = escaped(&format!("{}, {}", record.label, record.prompt_id));
    let Picture { width, height, .. } = picture;
    let image = format!(
        "<img id=\"image-{row}-{column}\" width=\"{width}\" height=\"{height}\" alt=\"{name}\" src=\"{}\">",
        data_uri(picture)?
    );
    let image = match before {
        Some(before) => format!(
            "<button type=\"button\" class=\"compare\" data-before=\"{before}\" data-after=\"image-{row}-{column}\" \
             data-name=\"{name}\" title=\"Compare with the unpruned image\">{image}</button>"
        ),
        None => image,
    };
    let far = record.distances.as_ref().map_or(String::new(), |distances| match distances.psnr {
        Some(psnr) => format!("<br>{psnr:.1} dB, SSIM {:.3}", distances.ssim),
        None => "<br>equal to the unpruned image".into(),
    });
    Ok(format!("<td>{image}<small>{}{far}</small></td>", readable(record.flops.mean_tflop)))
}

/// Overlays of one image: one line per step, one picture per block.
fn mask_section(finished: &StoredImage, picture: &Picture, path: &Path) -> Outcome<String> {
    let masks = read_masks(path)?;
    let picture = enlarge(&smaller(picture, OVERLAY), OVERLAY);
    let mut lines = String::new();
    for step in steps_shown(&masks) {
        lines.push_str(&format!("<h4>step {step}</h4><div class=\"masks\">"));
        for (key, entry) in masks.of_step(step) {
            lines.push_str(&mask_figure(&picture, key, entry)?);
        }
        lines.push_str("</div>");
    }
    let name = format!("{}, {}", finished.record.label, finished.record.prompt_id);
    Ok(format!("<details open><summary>{}</summary>{lines}</details>\n", escaped(&name)))
}

fn mask_figure(picture: &Picture, key: &MaskKey, entry: &MaskEntry) -> Outcome<String> {
    let grid = entry.kept_on_grid();
    // unconditional halves come first, so the last row is the prompt's
    let kept = grid.last().map_or(&[][..], Vec::as_slice);
    let mask = Mask::from_positions(entry.grid.0, entry.grid.1, kept);
    let tokens = entry.grid.0 * entry.grid.1;
    let words = escaped(&format!("{} layer {}: {} of {tokens}", key.block, key.layer, kept.len()));
    let uri = data_uri(&overlay(picture, &mask))?;
    Ok(format!(
        "<figure><img src=\"{uri}\" alt=\"kept tokens, {words}\"><figcaption>{words}</figcaption></figure>"
    ))
}

/// The first, the middle and the last step that have masks.
fn steps_shown(masks: &MaskSet) -> Vec<usize> {
    let mut steps: Vec<usize> = masks.iter().map(|(key, _)| key.step).collect();
    steps.sort_unstable();
    steps.dedup();
    let last = steps.len().saturating_sub(1);
    let mut shown: Vec<usize> =
        (0..MASK_STEPS).filter_map(|index| steps.get(index * last / (MASK_STEPS - 1)).copied()).collect();
    shown.dedup();
    shown
}
