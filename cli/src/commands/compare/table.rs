//! The output of `compare`: a sheet, a table, JSON.

use std::collections::BTreeMap;

use atedm_experiment::draw::{Cell, Sheet, SheetRow};
use atedm_experiment::files::Picture;
use atedm_experiment::plan::Plan;
use atedm_experiment::record::{Distances, Flops, PromptLine, Provenance, Times};
use atedm_sdxl::flops::readable;
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};

/// Pixels per letter on the sheet.
const LETTER: usize = 8;
/// The longest prompt on the sheet, in letters.
const ROW_TITLE: usize = 112;

/// One image with its figures.
pub(super) struct Shown {
    /// The image's column.
    pub(super) place: usize,
    pub(super) picture: Picture,
    pub(super) flops: Flops,
    pub(super) times: Times,
    pub(super) distances: Option<Distances>,
}

/// All images, row by row.
pub(super) struct Report<'a> {
    pub(super) plan: &'a Plan,
    pub(super) cells: Vec<Shown>,
}

/// The mean figures of a column.
struct Mean {
    tflop: f64,
    whole: f64,
    seconds: f64,
    /// `None` for the unpruned column.
    distances: Option<MeanDistances>,
}

/// Mean distances to the unpruned images.
struct MeanDistances {
    /// The mean in dB over the pictures that differ.
    psnr: Option<f64>,
    ssim: f64,
    latent_l2_relative: f64,
}

impl Report<'_> {
    fn rows(&self) -> impl Iterator<Item = (&PromptLine, &[Shown])> {
        self.plan.prompts.iter().zip(self.cells.chunks(self.plan.points.len().max(1)))
    }

    /// The contact sheet. The longer side of its pictures has `side` pixels.
    pub(super) fn sheet(&self, side: usize) -> Picture {
        let many_seeds = self.plan.prompts.iter().any(|prompt| prompt.seed != self.plan.prompts[0].seed);
        let rows = self.rows().map(|(prompt, cells)| {
            let cells =
                cells.iter().map(|cell| Cell { picture: cell.picture.clone(), caption: cell.caption() });
            let seed = if many_seeds { format!(" #{}", prompt.seed) } else { String::new() };
            SheetRow {
                name: format!("{}{seed}", shortened(&prompt.prompt, ROW_TITLE)),
                cells: cells.collect(),
            }
        });
        let labels = self.plan.points.iter().map(|point| point.info.label.as_str());
        let sheet = Sheet {
            title: format!(
                "{} | cost of a U-Net evaluation (2 x MAC), seconds a step, PSNR to the first column",
                self.model()
            ),
            columns: labels.map(|label| shortened(label, side / LETTER)).collect(),
            rows: rows.collect(),
        };
        sheet.draw(side)
    }

    fn model(&self) -> &str {
        self.plan.points.first().map_or("", |point| point.info.settings.model.as_str())
    }

    fn mean(&self, place: usize) -> Mean {
        let cells: Vec<&Shown> = self.cells.iter().filter(|cell| cell.place == place).collect();
        let over = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let distances: Vec<&Distances> = cells.iter().filter_map(|cell| cell.distances.as_ref()).collect();
        let psnr: Vec<f64> = distances.iter().filter_map(|distances| distances.psnr).collect();
        Mean {
            tflop: over(cells.iter().map(|cell| cell.flops.mean_tflop).collect()),
            whole: over(cells.iter().map(|cell| cell.flops.whole_tflop).collect()),
            seconds: over(cells.iter().map(|cell| cell.times.seconds_per_step).collect()),
            distances: (!distances.is_empty()).then(|| MeanDistances {
                psnr: (!psnr.is_empty()).then(|| over(psnr)),
                ssim: over(distances.iter().map(|distances| distances.ssim).collect()),
                latent_l2_relative: over(distances.iter().map(|d| d.latent_l2_relative).collect()),
            }),
        }
    }

    /// One line per method with means over the prompts. For several prompts, also one line per image.
    pub(super) fn to_text(&self) -> String {
        let labels = self.plan.points.iter().map(|point| point.info.label.chars().count());
        let wide = labels.max().unwrap_or(0).max(6);
        let head = |first: &str| {
            format!(
                "{first:<wide$} {:>14} {:>7} {:>10} {:>8} {:>8} {:>10}",
                "cost", "saved", "s a step", "PSNR dB", "SSIM", "latent L2"
            )
        };
        let line = |label: &str, mean: &Mean| {
            let saved = 100.0 * (1.0 - mean.tflop / mean.whole);
            let [psnr, ssim, latent] = match &mean.distances {
                None => ["-", "-", "-"].map(String::from),
                Some(MeanDistances { psnr, ssim, latent_l2_relative }) => [
                    psnr.map_or("equal".into(), |psnr| format!("{psnr:.2}")),
                    format!("{ssim:.4}"),
                    format!("{latent_l2_relative:.4}"),
                ],
            };
            let cost = readable(mean.tflop);
            let seconds = mean.seconds;
            format!(
                "{label:<wide$} {cost:>14} {saved:>5.1} % {seconds:>10.3} {psnr:>8} {ssim:>8} {latent:>10}"
            )
        };
        let mut lines = vec![head("method")];
        lines.extend(
            self.plan
                .points
                .iter()
                .enumerate()
                .map(|(place, point)| line(&point.info.label, &self.mean(place))),
        );
        if self.plan.prompts.len() > 1 {
            for (prompt, cells) in self.rows() {
                lines.push(String::new());
                lines.push(format!("{} (seed {})", prompt.prompt, prompt.seed));
                for cell in cells {
                    let label =
                        self.plan.points.get(cell.place).map_or("", |point| point.info.label.as_str());
                    lines.push(line(label, &cell.mean()));
                }
            }
        }
        lines.push(String::new());
        lines.push("Cost: of one U-Net evaluation on one sample, mean over the steps. Distances: to the unpruned image of the same".into());
        lines.push("prompt and seed; latent L2 is relative.".into());
        lines.extend(self.plan.points.first().map(|point| point.info.settings.noise()));
        lines.join("\n")
    }

    pub(super) fn to_json(&self, provenance: &Provenance) -> Outcome<Value> {
        let methods = self.plan.points.iter().enumerate().map(|(place, point)| {
            let mean = self.mean(place);
            let distances = mean.distances.map(|MeanDistances { psnr, ssim, latent_l2_relative }| {
                json!({ "psnr": psnr, "ssim": ssim, "latent_l2_relative": latent_l2_relative })
            });
            json!({
                "label": point.info.label,
                "settings": point.info.settings,
                "config_hash": point.info.config_hash,
                "mean_tflop": mean.tflop,
                "whole_tflop": mean.whole,
                "seconds_per_step": mean.seconds,
                "distances": distances,
            })
        });
        let methods: Vec<Value> = methods.collect();
        let images = self.rows().flat_map(|(prompt, cells)| {
            cells.iter().map(move |cell| {
                let distances = cell.distances.as_ref().map(|distances| {
                    let mut value = serde_json::to_value(distances).unwrap_or_default();
                    // rows are identified by prompt and seed here
                    if let Some(table) = value.as_object_mut() {
                        table.remove("to");
                    }
                    value
                });
                json!({
                    "prompt": prompt.prompt,
                    "seed": prompt.seed,
                    "method": self.plan.points.get(cell.place).map(|point| point.info.label.as_str()),
                    "mean_tflop": cell.flops.mean_tflop,
                    "seconds_per_step": cell.times.seconds_per_step,
                    "seconds": cell.times.seconds,
                    "distances": distances,
                })
            })
        });
        let images: Vec<Value> = images.collect();
        let provenance: BTreeMap<String, Value> =
            serde_json::from_value(serde_json::to_value(provenance).map_err(Failure::run)?)
                .map_err(Failure::run)?;
        Ok(json!({
            "model": self.model(),
            "flops_unit": "TFLOP: 2 x MAC, one sample, one U-Net evaluation; mean over the steps",
            "methods": methods,
            "images": images,
            "provenance": provenance,
        }))
    }
}

impl Shown {
    fn caption(&self) -> String {
        let mut caption =
            format!("{} {:.2} s/step", readable(self.flops.mean_tflop), self.times.seconds_per_step);
        if let Some(Distances { psnr: Some(psnr), .. }) = &self.distances {
            caption.push_str(&format!(" {psnr:.1} dB"));
        }
        caption
    }

    fn mean(&self) -> Mean {
        let of = |distances: &Distances| MeanDistances {
            psnr: distances.psnr,
            ssim: distances.ssim,
            latent_l2_relative: distances.latent_l2_relative,
        };
        Mean {
            tflop: self.flops.mean_tflop,
            whole: self.flops.whole_tflop,
            seconds: self.times.seconds_per_step,
            distances: self.distances.as_ref().map(of),
        }
    }
}

/// Shortens a text to its first letters if it has more than `most`.
fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() {
        few if few <= most => text.to_string(),
        _ => text.chars().take(most.saturating_sub(3)).chain("...".chars()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_prompts_are_shortened() {
        assert_eq!(shortened("a fox", 5), "a fox");
        assert_eq!(shortened("a very long prompt", 9), "a very...");
    }
}
