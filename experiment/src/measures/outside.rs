//! Measures that other programs made: files with a value for a point and a prompt.
//!
//! A file ends in `.csv`, `.tsv` or `.jsonl`. Two columns, `point` and `prompt`, hold ids of the run. Every other column is a
//! measure. Its name says which direction is better: `lpips:lower`. An empty field is a missing value. A file without `prompt`
//! measures points as a whole, as FID does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use serde_json::{Map, Value};

use super::metric::{Better, Metric};
use crate::delimited::{Separator, rows};
use crate::failure::{Failure, Outcome};
use crate::files::{DATA_MOST, read_text};
use crate::gathered::Gathered;
use crate::prompts::ending;

/// The directions of columns whose names do not say them.
pub type Directions = BTreeMap<String, Better>;

/// A measure with its values.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) metric: Metric,
    /// By the image's id, `POINT/PROMPT`; of a point as a whole by [`whole_id`].
    pub(super) values: BTreeMap<String, f64>,
}

/// One line of a file: its number, its point, its prompt, and a value for each column, or why it cannot be read.
struct Line {
    number: u64,
    point: String,
    prompt: Option<String>,
    values: Vec<(usize, Result<f64, String>)>,
}

impl Line {
    fn wrong(&self, reason: impl std::fmt::Display) -> Failure {
        Failure::usage(format!("line {}: {reason}", self.number))
    }
}

/// Reads the measures of a file.
///
/// # Errors
/// One line with the file and the line: an unknown point or prompt, a line that occurs twice, a value that is not a finite
/// number, a column without a direction.
pub(super) fn read(path: &Path, directions: &Directions, run: &Gathered) -> Outcome<Vec<Column>> {
    let kind = ending(path);
    let text = read_text(path, DATA_MOST)?;
    let read = match kind.as_deref() {
        Some("csv") => table(&text, Separator::Comma),
        Some("tsv") => table(&text, Separator::Tab),
        Some("jsonl") => objects(&text),
        _ => Err(Failure::usage("expected a name that ends in .csv, .tsv or .jsonl")),
    };
    read.and_then(|(names, lines)| columns(&names, &lines, directions, run))
        .map_err(|failure| failure.within(path.display()))
}

/// Stands for the id of an image where a value is of a point as a whole.
pub(super) fn whole_id(point: &str) -> String {
    format!("{point}/")
}

/// The columns of the measures, with the line that names them first.
type Names = Vec<(String, u64)>;

fn table(text: &str, separator: Separator) -> Outcome<(Names, Vec<Line>)> {
    let mut rows = rows(text, separator, true);
    let Some(first) = rows.next().transpose()? else {
        return Err(Failure::usage("expected columns point and prompt, got an empty file"));
    };
    let heads: Vec<&str> = first.fields.iter().map(str::trim).collect();
    let place = |wanted: &str| heads.iter().position(|head| *head == wanted);
    let (Some(point), prompt) = (place("point"), place("prompt")) else {
        return Err(first.wrong(format!("expected a column point, got columns {}", heads.join(", "))));
    };
    let own = |place: &usize| *place != point && Some(*place) != prompt;
    let measures: Vec<usize> = (0..heads.len()).filter(own).collect();
    let names = measures.iter().map(|&place| (heads[place].to_string(), first.line)).collect();
    let mut lines = Vec::new();
    for row in rows {
        let row = row?;
        if row.fields.len() != heads.len() {
            return Err(row.wrong(format!("expected {} columns, got {}", heads.len(), row.fields.len())));
        }
        let filled = measures.iter().enumerate().filter(|(_, place)| !row.field(**place).trim().is_empty());
        let value = |(index, place): (usize, &usize)| {
            let text = row.field(*place).trim();
            (index, text.parse::<f64>().map_err(|_| format!("{text:?}")))
        };
        lines.push(Line {
            number: row.line,
            point: row.field(point).trim().into(),
            prompt: prompt.map(|place| row.field(place).trim().into()),
            values: filled.map(value).collect(),
        });
    }
    Ok((names, lines))
}

fn objects(text: &str) -> Outcome<(Names, Vec<Line>)> {
    let (mut names, mut lines): (Names, Vec<Line>) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |reason: String| Failure::usage(format!("line {number}: {reason}"));
        let mut object: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let mut id = |key: &str| match object.remove(key) {
            Some(Value::String(id)) => Ok(Some(id)),
            None if key == "prompt" => Ok(None),
            _ => Err(wrong(format!("{key}: expected an id of the run as text"))),
        };
        let (point, prompt) = (id("point")?.unwrap_or_default(), id("prompt")?);
        let mut values = Vec::new();
        for (name, value) in object {
            let index = names.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                names.push((name, number));
                names.len() - 1
            });
            if !value.is_null() {
                values.push((index, value.as_f64().ok_or_else(|| value.to_string())));
            }
        }
        lines.push(Line { number, point, prompt, values });
    }
    Ok((names, lines))
}

/// The measures with the values of all lines.
fn columns(names: &Names, lines: &[Line], directions: &Directions, run: &Gathered) -> Outcome<Vec<Column>> {
    let metric = |(name, line): &(String, u64)| {
        let metric = metric_of(name, directions);
        metric.map_err(|failure| failure.within(format_args!("line {line}: column {name:?}")))
    };
    let metrics = names.iter().map(metric).collect::<Outcome<Vec<Metric>>>()?;
    if metrics.is_empty() {
        return Err(Failure::usage("expected columns of measures beside point and prompt, got none"));
    }
    let mut columns: Vec<Column> =
        metrics.into_iter().map(|metric| Column { metric, values: BTreeMap::new() }).collect();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines {
        let Line { number, point, prompt, values } = line;
        let point = run.point_named(point).map_err(|failure| line.wrong(failure))?;
        let id = match prompt {
            Some(prompt) if !run.prompts.iter().any(|known| known.id == *prompt) => {
                let reason = format!("prompt: expected the id of a prompt of the run, got {prompt:?}");
                return Err(line.wrong(reason));
            }
            Some(prompt) => format!("{}/{prompt}", point.id),
            None if lines.iter().any(|line| line.prompt.is_some()) => {
                return Err(line.wrong("prompt: expected an id, as on other lines"));
            }
            None => whole_id(&point.id),
        };
        match seen.entry(id.clone()) {
            Entry::Vacant(place) => drop(place.insert(*number)),
            Entry::Occupied(first) => {
                let first = first.get();
                return Err(
                    line.wrong(format!("expected each point and prompt once, got {id} of line {first}"))
                );
            }
        }
        for (index, value) in values {
            let Some(column) = columns.get_mut(*index) else { continue };
            match value {
                Ok(value) if value.is_finite() => drop(column.values.insert(id.clone(), *value)),
                Ok(value) => {
                    let name = &column.metric.key;
                    return Err(line.wrong(format!("{name}: expected a finite number, got {value}")));
                }
                Err(text) => {
                    let name = &column.metric.key;
                    return Err(line.wrong(format!("{name}: expected a number, got {text}")));
                }
            }
        }
    }
    columns.iter_mut().for_each(|column| column.metric.digits = digits(column.values.values()));
    Ok(columns)
}

/// A column's name and direction.
fn metric_of(name: &str, directions: &Directions) -> Outcome<Metric> {
    let (key, better) = match name.rsplit_once(':') {
        Some((key, direction)) => (key.trim(), direction.trim().parse()?),
        None => match directions.get(name) {
            Some(better) => (name, *better),
            None => {
                let reason = "expected a direction, higher or lower, as in";
                return Err(Failure::usage(format!("{reason} {:?}", format!("{name}:lower"))));
            }
        },
    };
    if key.is_empty() {
        return Err(Failure::usage("expected a name"));
    }
    Ok(Metric { key: key.into(), name: key.into(), axis: key.into(), digits: 0, better })
}

/// Digits after the decimal point that show four digits of the largest value.
fn digits<'a>(values: impl Iterator<Item = &'a f64>) -> usize {
    let largest = values.fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let before = if largest > 0.0 { largest.log10().floor() } else { 0.0 };
    (3.0 - before).clamp(0.0, 8.0) as usize
}
