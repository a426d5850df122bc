//! `atedm flops`: the cost of one U-Net evaluation by formula, by kind of operation and by block, whole and pruned.
//! These are the paper's Fig. 2 and the TFLOPs of its Tables 1 and 2.

use atedm_core::reference::NdTensor;
use atedm_experiment::extension::registry;
use atedm_experiment::spec::PruneSpec;
use atedm_experiment::subject::{Costed, Subject};
use atedm_sdxl::flops::{MeanCost, RunCost, StepClass, Unit};
use serde_json::{Map, Value, json};

use super::print::print;
use crate::Extension;
use crate::args::{FlopsArgs, PruneArgs};
use crate::failure::{Failure, Outcome};
use crate::model::subject;
use crate::{prune, tell};

/// Computes the costs and prints them.
pub(crate) fn run(args: &FlopsArgs, extension: &impl Extension) -> Outcome {
    let subject = subject(&args.model)?.sized(args.size.asked())?;
    let work = subject.workload(args.steps);
    let registry = registry::<NdTensor>(extension)?;
    let none = PruneSpec::new("none");
    let whole = Row::new(&none, &work, &registry)?;
    let mut rows = Vec::new();
    let mut refused = Vec::new();
    let asked = specs(args)?;
    for spec in &asked.specs {
        match Row::new(spec, &work, &registry) {
            Ok(row) => rows.push(row),
            // default rows that cannot reach the budget only give a warning
            Err(failure) if asked.by_default && args.budget.is_some() => refused.push((spec, failure)),
            Err(failure) => return Err(failure),
        }
    }
    if rows.is_empty()
        && let Some((_, failure)) = refused.pop()
    {
        return Err(failure);
    }
    for (spec, failure) in &refused {
        tell::warning(format_args!("{} is left out: {failure}", spec.label()));
    }
    let report = Report { subject: &subject, steps: args.steps, whole, rows };
    let text = if args.json {
        serde_json::to_string_pretty(&report.to_json()).map_err(Failure::run)?
    } else {
        report.to_text()
    };
    print(text.trim_end())
}

/// The requested rows.
struct Asked {
    specs: Vec<PruneSpec>,
    by_default: bool,
}

/// One row per configuration file, else one per method, else the paper's rows.
fn specs(args: &FlopsArgs) -> Outcome<Asked> {
    let one = |prune: Option<&String>, file: Option<&std::path::PathBuf>, point: Option<&str>| {
        let mut typed = args.prune_opt.clone();
        typed.extend(point.map(|point| format!("prune_point={point}")));
        typed.extend(args.budget.map(|budget| format!("budget_tflops={budget}")));
        prune::spec(&PruneArgs { prune: prune.cloned(), prune_opt: typed, prune_config: file.cloned() })
    };
    let specs: Outcome<Vec<PruneSpec>> = match (args.prune.as_slice(), args.prune_config.as_slice()) {
        ([], []) => {
            let methods = ["at-edm", "at-edm-dagger"].map(String::from);
            let chosen = args.prune_opt.iter().any(|list| list.contains("prune_point"));
            let points: &[Option<&str>] = if chosen { &[None] } else { &[None, Some("before_ff")] };
            methods.iter().flat_map(|name| points.iter().map(|point| one(Some(name), None, *point))).collect()
        }
        (methods, []) => methods.iter().map(|name| one(Some(name), None, None)).collect(),
        ([], files) => files.iter().map(|file| one(None, Some(file), None)).collect(),
        ([method], files) => files.iter().map(|file| one(Some(method), Some(file), None)).collect(),
        _ => {
            return Err(Failure::usage(
                "--prune: expected at most one method beside --prune-config: the files name theirs",
            ));
        }
    };
    Ok(Asked { specs: specs?, by_default: args.prune.is_empty() && args.prune_config.is_empty() })
}

/// One configuration and its cost.
struct Row {
    costed: Costed,
    cost: RunCost,
}

impl Row {
    fn new(
        spec: &PruneSpec,
        work: &atedm_experiment::method::Workload<'_>,
        registry: &atedm_core::plugin::Registry<NdTensor>,
    ) -> Outcome<Self> {
        let costed = Costed::new(spec, work, registry.catalogue())?;
        costed.method.remarks().iter().for_each(tell::warning);
        costed.method.check(registry)?;
        match costed.cost.clone() {
            Some(cost) => Ok(Self { costed, cost }),
            None => Err(Failure::usage(format!(
                "--prune: what {} prunes shows in a run only (atedm bench runs it)",
                costed.method.name
            ))),
        }
    }

    /// TFLOP of a prune-less step, of a normal step, and the mean.
    fn tflops(&self) -> [f64; 3] {
        let of = |class: Option<&StepClass>| class.map_or(0.0, |class| class.cost.tflop());
        [of(self.cost.dearest()), of(self.cost.cheapest()), self.cost.mean_tflop()]
    }
}

/// The data of the output.
struct Report<'a> {
    subject: &'a Subject,
    steps: usize,
    whole: Row,
    rows: Vec<Row>,
}

impl Report<'_> {
    fn to_text(&self) -> String {
        let full = self.whole.cost.mean_tflop();
        let unit = Unit::fitting(full);
        let (work, size) = (self.subject.workload(self.steps), self.subject.size);
        let mut lines = vec![
            format!(
                "{} at {size} px (latents {} x {}, {} text tokens), {} steps",
                self.subject.name, work.latents.width, work.latents.height, self.subject.text, self.steps
            ),
            format!("{} (2 x MAC) of one U-Net evaluation on one sample", unit.name),
        ];
        if self.rows.iter().any(|row| row.cost.unguided_steps() > 0) {
            lines.push(
                "a step at which guidance has ended counts half: an image is one row in place of two".into(),
            );
        }
        lines.push(String::new());
        let wide = self.rows.iter().map(|row| row.costed.label.chars().count()).max().unwrap_or(0).max(13);
        lines.push(format!(
            "    {:<wide$} {:>7} {:>11} {:>8} {:>8} {:>8}",
            "configuration", "ratio", "prune-less", "normal", "mean", "saved"
        ));
        let rows = std::iter::once(&self.whole).chain(&self.rows).enumerate();
        lines.extend(rows.map(|(number, row)| {
            let number = if number == 0 { String::new() } else { format!("[{number}]") };
            let label = if number.is_empty() { "full" } else { &row.costed.label };
            let [less, normal, mean] = row.tflops().map(|tflop| unit.show(tflop));
            let ratio = row.costed.ratio().map_or("-".into(), |ratio| format!("{ratio:.4}"));
            let saved = 100.0 * (1.0 - row.cost.mean_tflop() / full);
            format!("{number:<3} {label:<wide$} {ratio:>7} {less:>11} {normal:>8} {mean:>8} {saved:>6.1} %")
        }));
        self.breakdown(&mut lines, "by kind", &unit, &|row| row.cost.mean_by_kind());
        self.breakdown(&mut lines, "by block", &unit, &|row| row.cost.mean_by_part());
        lines.join("\n")
    }

    /// The full model's cost by kind or by block with its shares, and the mean of every row.
    fn breakdown(
        &self,
        lines: &mut Vec<String>,
        heading: &str,
        unit: &Unit,
        of: &dyn Fn(&Row) -> Vec<MeanCost>,
    ) {
        let numbers: String =
            (1..=self.rows.len()).map(|number| format!(" {:>8}", format!("[{number}]"))).collect();
        lines.push(String::new());
        lines.push(format!("{heading:<27} {:>8} {:>8}{numbers}", "full", "share"));
        let full = of(&self.whole);
        let sum: f64 = full.iter().map(|cost| cost.tflop).sum();
        let rows: Vec<Vec<MeanCost>> = self.rows.iter().map(of).collect();
        for (i, MeanCost { name, tflop }) in full.iter().enumerate() {
            let share = 100.0 * tflop / sum;
            let each: String = rows
                .iter()
                .map(|row| format!(" {:>8}", unit.show(row.get(i).map_or(0.0, |cost| cost.tflop))))
                .collect();
            lines.push(format!("  {name:<25} {:>8} {share:>6.1} %{each}", unit.show(*tflop)));
        }
    }

    fn to_json(&self) -> Value {
        let (work, size) = (self.subject.workload(self.steps), self.subject.size);
        let row = |row: &Row| {
            let [less, normal, mean] = row.tflops();
            let table = |costs: Vec<MeanCost>| -> Map<String, Value> {
                costs.into_iter().map(|cost| (cost.name, cost.tflop.into())).collect()
            };
            let (kinds, blocks) = (table(row.cost.mean_by_kind()), table(row.cost.mean_by_part()));
            json!({
                "name": row.costed.label,
                "method": row.costed.method.name,
                "options": row.costed.method.settings,
                "ratio": row.costed.ratio(),
                "prune_less_tflop": less,
                "normal_tflop": normal,
                "mean_tflop": mean,
                "saved": 1.0 - mean / self.whole.cost.mean_tflop(),
                "kinds": kinds,
                "blocks": blocks,
            })
        };
        json!({
            "model": self.subject.name,
            "width": size.width,
            "height": size.height,
            "latents": [work.latents.height, work.latents.width],
            "text_tokens": self.subject.text,
            "steps": self.steps,
            "flops_unit": "TFLOP: 2 x MAC, one sample, one U-Net evaluation; mean over the steps, of which those without guidance count half",
            "full": row(&self.whole),
            "methods": self.rows.iter().map(row).collect::<Vec<Value>>(),
        })
    }
}
