//! The page's tables: points, images, configurations, provenance.

use std::collections::BTreeMap;

use super::figures::{METRICS, Mean, PointFigures};
use super::html::{date, escaped, pretty};
use crate::failure::Outcome;
use crate::gathered::Gathered;
use crate::record::{PointInfo, Provenance, Record};

/// Maximum number of rows in the table of images. `results.jsonl` has all of them.
const MOST_ROWS: usize = 2000;

/// The unit of a run's FLOPs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    /// How many of this unit make one TFLOP.
    pub(super) factor: f64,
}

impl Unit {
    /// A unit in which the unpruned model has at least 1.
    pub(super) fn of(run: &Gathered) -> Self {
        let largest = run.info.points.iter().map(|point| point.whole_tflop).fold(0.0, f64::max);
        match largest {
            large if large >= 1.0 => Self { name: "TFLOP", factor: 1.0 },
            middle if middle >= 1e-3 => Self { name: "GFLOP", factor: 1e3 },
            _ => Self { name: "MFLOP", factor: 1e6 },
        }
    }

    fn show(self, tflop: f64) -> String {
        format!("{:.3}", tflop * self.factor)
    }
}

/// The title of a sortable column, with a hint below it.
fn head(title: &str, hint: &str) -> String {
    let hint = if hint.is_empty() { String::new() } else { format!("<small>{}</small>", escaped(hint)) };
    format!("<th scope=\"col\"><button type=\"button\">{}</button>{hint}</th>", escaped(title))
}

/// A cell with the value that it is sorted by.
fn cell(value: f64, shown: &str) -> String {
    format!("<td data-value=\"{value}\">{shown}</td>")
}

const MISSING: &str = "<td class=\"none\">–</td>";

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or(MISSING.into(), |value| cell(value, &format!("{value:.digits$}")))
}

/// The mean, its interval, and the number of values.
fn mean(mean: Option<Mean>, digits: usize, note: &str) -> String {
    let Some(Mean { value, interval, count }) = mean else {
        return match note {
            "" => MISSING.into(),
            note => format!("<td class=\"none\">{note}</td>"),
        };
    };
    let interval =
        interval.map_or(String::new(), |(low, high)| format!("[{low:.digits$}, {high:.digits$}]<br>"));
    let note = if note.is_empty() { String::new() } else { format!("<br>{note}") };
    cell(value, &format!("{value:.digits$}<small>{interval}N = {count}{note}</small>"))
}

/// One line per point.
pub(super) fn points(run: &Gathered, figures: &[PointFigures]) -> String {
    let unit = Unit::of(run);
    let mut heads = vec![
        head("point", ""),
        head("images", "done"),
        head(unit.name, "an evaluation"),
        head("saved", "of FLOPs"),
        head("kept tokens", "by level"),
        head("votes", "a decision"),
        head("s / step", "mean, 95 %"),
    ];
    heads.extend(METRICS.map(|metric| head(metric.name, metric.better)));
    let rows = run.info.points.iter().zip(figures).enumerate();
    let rows = rows.map(|(index, (point, figures))| point_row(run, index, point, figures));
    format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"Points\" tabindex=\"0\"><table class=\"sortable\">\
         <thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>\n",
        heads.concat(),
        rows.collect::<String>()
    )
}

fn point_row(run: &Gathered, index: usize, point: &PointInfo, figures: &PointFigures) -> String {
    let unit = Unit::of(run);
    let total = run.prompts.len();
    let mut cells = vec![
        format!(
            "<th scope=\"row\" data-value=\"{index}\"><a href=\"#config-{index}\">{}</a></th>",
            escaped(&point.label)
        ),
        cell(figures.done as f64, &format!("{} of {total}", figures.done)),
    ];
    match (figures.tflop, point.planned_tflop) {
        (Some(Mean { value, .. }), _) => {
            let saved = 100.0 * (1.0 - value / point.whole_tflop);
            cells.push(cell(value, &unit.show(value)));
            cells.push(cell(saved, &format!("{saved:.1} %")));
        }
        (None, Some(planned)) => {
            let saved = 100.0 * (1.0 - planned / point.whole_tflop);
            cells.push(cell(planned, &format!("{}<small>planned</small>", unit.show(planned))));
            cells.push(cell(saved, &format!("{saved:.1} %<small>planned</small>")));
        }
        (None, None) => cells.extend([MISSING.to_string(), MISSING.to_string()]),
    }
    let (before, after) =
        figures.kept.iter().fold((0.0, 0.0), |(b, a), kept| (b + kept.tokens, a + kept.kept));
    let levels = figures.kept.iter().map(|kept| {
        let share = 100.0 * kept.kept / kept.tokens.max(1.0);
        format!("<div>{}: {:.0} of {:.0} ({share:.0} %)</div>", kept.level, kept.kept, kept.tokens)
    });
    cells.push(match figures.kept.is_empty() {
        true => MISSING.into(),
        false => cell(after / before.max(1.0), &levels.collect::<String>()),
    });
    cells.push(number(figures.votes, 1));
    cells.push(mean(figures.seconds_per_step, 3, ""));
    for (index, (metric, value)) in METRICS.iter().zip(figures.distances).enumerate() {
        let note = match (index, figures.equal) {
            (0, equal) if equal > 0 => format!("{equal} equal (∞)"),
            _ => String::new(),
        };
        cells.push(mean(value, metric.digits, &note));
    }
    format!("<tr>{}</tr>\n", cells.concat())
}

/// One line per image.
pub(super) fn images(run: &Gathered) -> String {
    let unit = Unit::of(run);
    let mut heads = vec![
        head("prompt", ""),
        head("point", ""),
        head("seed", ""),
        head(unit.name, ""),
        head("s / step", ""),
        head("seconds", "the image"),
    ];
    heads.extend(METRICS.map(|metric| head(metric.name, "")));
    let records = run.info.points.iter().flat_map(|point| run.of_point(point));
    let rows: String = records.take(MOST_ROWS).map(|record| image_row(record, unit)).collect();
    let cut = match run.records.len() {
        many if many > MOST_ROWS => {
            format!(
                "<p>The first {MOST_ROWS} of {many} images; the run's <code>results.jsonl</code> has all.</p>"
            )
        }
        _ => String::new(),
    };
    format!(
        "{cut}<div class=\"wide tall\" role=\"region\" aria-label=\"Images\" tabindex=\"0\"><table class=\"sortable\">\
         <thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n",
        heads.concat()
    )
}

fn image_row(record: &Record, unit: Unit) -> String {
    let mut cells = vec![
        format!(
            "<th scope=\"row\" title=\"{}\">{}</th>",
            escaped(&record.prompt),
            escaped(&record.prompt_id)
        ),
        format!("<td>{}</td>", escaped(&record.label)),
        // seeds have up to 64 bits, so they are text to avoid rounding
        format!("<td class=\"number\">{}</td>", record.seed),
        cell(record.flops.mean_tflop, &unit.show(record.flops.mean_tflop)),
        number(Some(record.times.seconds_per_step), 3),
        number(Some(record.times.seconds), 2),
    ];
    let equal = record.distances.as_ref().is_some_and(|distances| distances.psnr.is_none());
    for metric in METRICS {
        cells.push(match (metric.value(record), equal) {
            (None, true) => "<td data-value=\"Infinity\">∞</td>".into(),
            (value, _) => number(value, metric.digits),
        });
    }
    format!("<tr>{}</tr>\n", cells.concat())
}

/// The configuration of each point, folded.
pub(super) fn configurations(run: &Gathered) -> Outcome<String> {
    let mut parts = Vec::new();
    for (index, point) in run.info.points.iter().enumerate() {
        let settings = serde_json::to_value(&point.settings).map_err(crate::failure::Failure::run)?;
        let mut facts = vec![
            ("grid entry", escaped(&point.grid)),
            ("varied", pretty(&point.varied)),
            ("hash of settings, backend and dtype", escaped(&point.config_hash)),
            ("unpruned", format!("{} TFLOP", point.whole_tflop)),
        ];
        if let Some(budget) = point.budget_tflops {
            facts.push(("budget", format!("{budget} TFLOP")));
        }
        match point.planned_tflop {
            Some(planned) => facts.push(("by formula", format!("{planned} TFLOP"))),
            None => facts.push(("by formula", "a plugin: only a run tells".into())),
        }
        if let Some(reference) = &point.reference {
            facts.push(("compared with", escaped(reference)));
        }
        parts.push(format!(
            "<details class=\"config\" id=\"config-{index}\"><summary>{}</summary>{}<pre>{}</pre></details>\n",
            escaped(&point.label),
            list(&facts),
            pretty(&settings)
        ));
    }
    Ok(parts.concat())
}

/// A list of terms and descriptions. The descriptions are HTML already.
fn list(facts: &[(&str, String)]) -> String {
    let lines = facts.iter().map(|(term, said)| format!("<div><dt>{term}</dt><dd>{said}</dd></div>"));
    format!("<dl>{}</dl>", lines.collect::<String>())
}

/// The machines that computed the images, and the times.
pub(super) fn provenance(run: &Gathered) -> String {
    let mut machines: BTreeMap<String, usize> = BTreeMap::new();
    for finished in run.records.values() {
        *machines.entry(machine(&finished.record.provenance)).or_default() += 1;
    }
    let machines = machines.iter().map(|(words, count)| format!("{} ({count} images)", escaped(words)));
    let mut models: Vec<String> =
        run.info.points.iter().map(|point| escaped(&point.settings.model)).collect();
    models.dedup();
    let times = || run.records.values().map(|finished| finished.record.times.finished_at);
    let when = match times().min().zip(times().max()) {
        Some((first, last)) => format!("{} to {}", date(first), date(last)),
        None => "none yet".into(),
    };
    let mut facts = vec![
        ("images", format!("{} of {} finished", run.records.len(), run.total())),
        ("finished", when),
        ("checkpoint", models.join(", ")),
        ("computed by", machines.collect::<Vec<_>>().join("<br>")),
        ("run", format!("<code>{}</code>", escaped(&run.info.run_hash))),
        ("folders", run.folders.to_string()),
        ("page", format!("atedm {}, records of format {}", env!("CARGO_PKG_VERSION"), run.info.format)),
    ];
    if run.doubles > 0 {
        facts.push(("made twice", format!("{} images; the first of each is shown", run.doubles)));
    }
    facts.retain(|(_, said)| !said.is_empty());
    list(&facts)
}

fn machine(by: &Provenance) -> String {
    let gpu = by.gpu.as_ref().map_or(String::new(), |gpu| format!(", {gpu}"));
    let Provenance { atedm, backend, device, dtype, cpu, threads, .. } = by;
    format!("atedm {atedm}, {backend}, {device}, {dtype}, {cpu}, {threads} threads{gpu}")
}
