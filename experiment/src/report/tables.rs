//! The page's tables: points, images, configurations, provenance.

use std::collections::BTreeMap;

use super::figures::{kept, votes};
use super::html::{date, escaped, pretty};
use crate::failure::Outcome;
use crate::gathered::Gathered;
use crate::measures::{Difference, Mean, Measures, MetricRow, Summary, SummaryRow, Unit};
use crate::record::{PointInfo, Provenance, Record};

/// Maximum number of rows in the table of images. `results.jsonl` has all of them.
const MOST_ROWS: usize = 2000;

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
pub(super) fn points(run: &Gathered, summary: &Summary) -> String {
    let mut heads = vec![
        head("point", ""),
        head("images", "done"),
        head(summary.unit.name, "an evaluation"),
        head("saved", "of FLOPs"),
        head("kept tokens", "by level"),
        head("votes", "a decision"),
        head("s / step", "median, 95 %"),
    ];
    heads.extend(summary.metrics.iter().map(|metric| head(&metric.name, &metric.better.to_string())));
    let rows = run.info.points.iter().zip(&summary.rows).enumerate();
    let rows = rows.map(|(index, (point, row))| point_row(run, summary, index, (point, row)));
    table("Points", &heads, &rows.collect::<String>())
}

/// A table whose columns sort.
fn table(name: &str, heads: &[String], rows: &str) -> String {
    format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{name}\" tabindex=\"0\"><table class=\"sortable\">\
         <thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n",
        heads.concat()
    )
}

/// The first cell of a point's line. It links to the point's configuration.
fn point_head(index: usize, label: &str) -> String {
    // a narrow column breaks behind a key rather than within a word
    let label = escaped(label).replace('=', "=<wbr>");
    format!("<th scope=\"row\" data-value=\"{index}\"><a href=\"#config-{index}\">{label}</a></th>")
}

fn point_row(
    run: &Gathered,
    summary: &Summary,
    index: usize,
    (point, row): (&PointInfo, &SummaryRow),
) -> String {
    let (unit, total) = (summary.unit, run.prompts.len());
    let records: Vec<&Record> = run.of_point(point).collect();
    let mut cells =
        vec![point_head(index, &point.label), cell(row.images as f64, &format!("{} of {total}", row.images))];
    match (row.tflop, point.planned_tflop) {
        (Some(Mean { value, .. }), _) => {
            let saved = 100.0 * (1.0 - value / point.whole_tflop);
            cells.push(cell(value, &unit.show(value)));
            cells.push(cell(saved, &format!("{saved:.1} %")));
        }
        (None, Some(planned)) => {
            let saved = 100.0 * (1.0 - planned / point.whole_tflop);
            cells.push(cell(planned, &format!("{}<small>planned</small>", unit.show(planned))));
            cells.push(cell(saved, &format!("{saved:.1} %<small>planned</small>")));
        }
        (None, None) => cells.extend([MISSING.to_string(), MISSING.to_string()]),
    }
    let kept = kept(&records);
    let (before, after) = kept.iter().fold((0.0, 0.0), |(b, a), kept| (b + kept.tokens, a + kept.kept));
    let levels = kept.iter().map(|kept| {
        let share = 100.0 * kept.kept / kept.tokens.max(1.0);
        format!("<div>{}: {:.0} of {:.0} ({share:.0} %)</div>", kept.level, kept.kept, kept.tokens)
    });
    cells.push(match kept.is_empty() {
        true => MISSING.into(),
        false => cell(after / before.max(1.0), &levels.collect::<String>()),
    });
    cells.push(number(votes(&records), 1));
    cells.push(mean(row.seconds_per_step, 3, ""));
    for (metric, found) in summary.metrics.iter().zip(&row.metrics) {
        cells.push(mean(found.mean, metric.digits, &note(found)));
    }
    format!("<tr>{}</tr>\n", cells.concat())
}

/// What a cell of a measure says besides the mean.
fn note(MetricRow { infinite, front, .. }: &MetricRow) -> String {
    let mut notes = Vec::new();
    if *infinite > 0 {
        notes.push(format!("{infinite} equal (∞)"));
    }
    match (front.flops, front.time) {
        (true, true) => notes.push("◯ FLOPs, time".into()),
        (true, false) => notes.push("◯ FLOPs".into()),
        (false, true) => notes.push("◯ time".into()),
        (false, false) => {}
    }
    notes.join("<br>")
}

/// One line per point that is compared with the baseline.
pub(super) fn differences(run: &Gathered, summary: &Summary) -> String {
    let compared = |place: usize| {
        let of = |row: &SummaryRow| row.metrics.get(place).is_some_and(|found| found.difference.is_some());
        summary.rows.iter().any(of)
    };
    let metrics: Vec<usize> = (0..summary.metrics.len()).filter(|place| compared(*place)).collect();
    let mut heads = vec![head("point", "")];
    for metric in metrics.iter().filter_map(|place| summary.metrics.get(*place)) {
        heads.push(head(&format!("Δ {}", metric.name), &metric.better.to_string()));
        heads.push(head(&format!("{} wins", metric.name), "share of prompts"));
    }
    let mut rows = String::new();
    for (index, (point, row)) in run.info.points.iter().zip(&summary.rows).enumerate() {
        let found = |place: &usize| row.metrics.get(*place).and_then(|found| found.difference);
        if metrics.iter().all(|place| found(place).is_none()) {
            continue;
        }
        let mut cells = vec![point_head(index, &point.label)];
        for place in &metrics {
            let digits = summary.metrics.get(*place).map_or(3, |metric| metric.digits);
            cells.extend(difference_cells(found(place), digits));
        }
        rows.push_str(&format!("<tr>{}</tr>\n", cells.concat()));
    }
    table("Differences", &heads, &rows)
}

/// The difference and the wins.
fn difference_cells(difference: Option<Difference>, digits: usize) -> [String; 2] {
    let Some(Difference { mean: found, win_rate, wins, ties, losses, .. }) = difference else {
        return [MISSING, MISSING].map(String::from);
    };
    let interval = win_rate
        .interval
        .map_or(String::new(), |(low, high)| format!("[{:.0}, {:.0}]<br>", 100.0 * low, 100.0 * high));
    let rate = 100.0 * win_rate.value;
    let wins = format!("{rate:.0} %<small>{interval}{wins} won, {ties} tied, {losses} lost</small>");
    [mean(found, digits, ""), cell(win_rate.value, &wins)]
}

/// One line per image.
pub(super) fn images(measures: &Measures<'_>) -> String {
    let run = measures.run();
    let unit = Unit::of(run);
    let mut heads = vec![
        head("prompt", ""),
        head("point", ""),
        head("seed", ""),
        head(unit.name, ""),
        head("s / step", ""),
        head("seconds", "the image"),
    ];
    heads.extend(measures.metrics().iter().map(|metric| head(&metric.name, "")));
    let records = run.info.points.iter().flat_map(|point| run.of_point(point));
    let rows: String = records.take(MOST_ROWS).map(|record| image_row(measures, record, unit)).collect();
    let cut = match run.records.len() {
        many if many > MOST_ROWS => {
            format!(
                "<p>The first {MOST_ROWS} of {many} images; the run's <code>results.jsonl</code> has all.</p>"
            )
        }
        _ => String::new(),
    };
    let table = table("Images", &heads, &rows).replacen("class=\"wide\"", "class=\"wide tall\"", 1);
    format!("{cut}{table}")
}

fn image_row(measures: &Measures<'_>, record: &Record, unit: Unit) -> String {
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
    for (place, metric) in measures.metrics().iter().enumerate() {
        cells.push(match measures.value(place, &record.point, &record.prompt_id) {
            Some(f64::INFINITY) => "<td data-value=\"Infinity\">∞</td>".into(),
            value => number(value, metric.digits),
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
