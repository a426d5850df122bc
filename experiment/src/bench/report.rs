//! The figures as a table and as JSON.

use serde_json::{Value, json};

use super::clock::Phase;
use super::figures::Figures;
use atedm_sdxl::flops::readable;

/// Everything that is shown.
pub struct Report {
    /// What was timed, on what.
    pub(super) heading: Vec<String>,
    pub(super) device: String,
    pub(super) dtype: String,
    pub(super) size: usize,
    pub(super) batch: usize,
    pub(super) guided: bool,
    pub(super) steps: usize,
    pub(super) full: Figures,
    pub(super) methods: Vec<Figures>,
}

impl Report {
    fn speedup(&self, method: &Figures) -> f64 {
        self.full.mean_ms / method.mean_ms
    }

    /// The speed-up as a share of what the FLOPs promise.
    fn efficiency(&self, method: &Figures) -> Option<f64> {
        Some(self.speedup(method) / (self.full.flops_mean? / method.flops_mean?))
    }

    /// A table for people.
    pub fn to_text(&self) -> String {
        let mut lines = self.heading.clone();
        let rows = || std::iter::once(&self.full).chain(&self.methods);
        let wide = rows().map(|row| row.name.chars().count()).max().unwrap_or(0).max(6);
        lines.push(String::new());
        lines.push(format!(
            "{:<wide$} {:>10} {:>9} {:>9} {:>8} {:>14} {:>10} {:>8} {:>8} {:>8}",
            "ms a step",
            "prune-less",
            "normal",
            "mean",
            "speed-up",
            "FLOPs",
            "efficiency",
            "scoring",
            "overlap",
            "peak GB"
        ));
        let or_dash = |figure: Option<String>| figure.unwrap_or_else(|| "-".into());
        for row in rows() {
            let pruned = !std::ptr::eq(row, &self.full);
            let of_pruned = |figure: f64, decimals: usize| pruned.then(|| format!("{figure:.decimals$}"));
            lines.push(format!(
                "{:<wide$} {:>10} {:>9} {:>9.1} {:>8} {:>14} {:>10} {:>8} {:>8} {:>8}",
                row.name,
                or_dash(of_pruned(row.prune_less_ms, 1)),
                or_dash(of_pruned(row.normal_ms, 1)),
                row.mean_ms,
                format!("{:.2}x", self.speedup(row)),
                or_dash(row.flops_mean.map(|flops| readable(1e-12 * flops))),
                or_dash(self.efficiency(row).filter(|_| pruned).map(|share| format!("{share:.2}"))),
                or_dash(pruned.then(|| format!("{:.1} %", 100.0 * row.scoring_share()))),
                or_dash(row.overlap.map(|overlap| format!("{overlap:.3}"))),
                or_dash(row.peak_bytes.map(|bytes| format!("{:.2}", 1e-9 * bytes as f64))),
            ));
        }
        for row in rows().filter(|row| row.unguided_steps > 0) {
            let (name, unguided, steps) = (&row.name, row.unguided_steps, self.steps);
            lines.push(format!(
                "{name}: {unguided} of {steps} steps run without guidance, on half of the rows"
            ));
        }
        lines.push(String::new());
        let names: String = Phase::ALL.iter().map(|(_, name)| format!(" {name:>12}")).collect();
        lines.push(format!("{:<wide$}{names}", "ms by phase"));
        for row in rows() {
            let phases: String = Phase::ALL
                .iter()
                .map(|&(phase, _)| format!(" {:>12.1}", 1e3 * row.phases.of(phase)))
                .collect();
            lines.push(format!("{:<wide$}{phases}", row.name));
        }
        lines.join("\n")
    }

    /// The same for programs.
    pub fn to_json(&self) -> Value {
        let method = |method: &Figures| {
            json!({
                "name": method.name,
                "prune_less_ms": method.prune_less_ms,
                "normal_ms": method.normal_ms,
                "mean_ms": method.mean_ms,
                "speedup": self.speedup(method),
                "flops_full": self.full.flops_mean,
                "flops_mean": method.flops_mean,
                "unguided_steps": method.unguided_steps,
                "efficiency": self.efficiency(method),
                "scoring_share": method.scoring_share(),
                "overlap": method.overlap,
                "peak_bytes": method.peak_bytes,
            })
        };
        json!({
            "device": self.device,
            "dtype": self.dtype,
            "size": self.size,
            "batch": self.batch,
            "guided": self.guided,
            "steps": self.steps,
            "full_ms": self.full.mean_ms,
            "methods": self.methods.iter().map(method).collect::<Vec<Value>>(),
        })
    }
}
