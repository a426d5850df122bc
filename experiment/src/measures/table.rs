//! A summary as a table: CSV for programs, Markdown and LaTeX for readers.

use std::path::Path;
use std::str::FromStr;

use super::csv_table::ALL;
use super::mean::Mean;
use super::metric::{Better, Metric};
use super::paired::Difference;
use super::summary::{Baseline, MetricRow, Summary, SummaryRow};
use crate::failure::{Failure, Outcome, without_breaks};
use crate::prompts::ending;

/// The form of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Every figure in a column of its own, with all its digits.
    Csv,
    /// A table of Markdown, with a paragraph that explains it.
    Markdown,
    /// A `tabular` of LaTeX for the package `booktabs`, with a comment that explains it.
    Latex,
}

impl Format {
    /// The form that a file's name asks for: `.csv`, `.md` or `.tex`.
    ///
    /// # Errors
    /// [`Failure::Usage`] for another ending.
    pub fn of(path: &Path) -> Outcome<Self> {
        let wrong = || {
            let shown = path.display();
            Failure::usage(format!("expected a name that ends in .csv, .md or .tex, got {shown}"))
        };
        ending(path).ok_or_else(wrong)?.parse().map_err(|_| wrong())
    }
}

impl FromStr for Format {
    type Err = Failure;

    fn from_str(name: &str) -> Outcome<Self> {
        match name {
            "csv" => Ok(Self::Csv),
            "md" => Ok(Self::Markdown),
            "tex" => Ok(Self::Latex),
            other => Err(Failure::usage(format!("expected csv, md or tex, got {other:?}"))),
        }
    }
}

impl Summary {
    /// The summary as a text. Markdown and LaTeX leave out measures without values.
    ///
    /// # Errors
    /// [`Failure::Run`] if the CSV cannot be written.
    pub fn table(&self, format: Format) -> Outcome<String> {
        match format {
            Format::Csv => self.csv(),
            Format::Markdown => Ok(self.markdown()),
            Format::Latex => Ok(self.latex()),
        }
    }

    fn markdown(&self) -> String {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let columns = self.columns();
        let mut text = line(columns.iter().map(|column| escaped(&column.head(Arrow::Unicode))).collect());
        text += &line(columns.iter().map(|column| column.aligned().into()).collect());
        for row in &self.rows {
            let cell = |column: &Column| match column.cell(self, row) {
                Cell { text, bold: true, rest } => format!("**{}**{}", escaped(&text), escaped(&rest)),
                Cell { text, rest, .. } => escaped(&text) + &escaped(&rest),
            };
            text += &line(columns.iter().map(cell).collect());
        }
        format!("{text}\n{}\n", self.legend().join(" "))
    }

    fn latex(&self) -> String {
        let columns = self.columns();
        let sides: String = columns.iter().map(|column| if column.is_text() { 'l' } else { 'r' }).collect();
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let heads = columns.iter().map(|column| in_latex(&column.head(Arrow::Latex)));
        let mut text: String = self.legend().iter().map(|line| format!("% {line}\n")).collect();
        text += &format!("\\begin{{tabular}}{{{sides}}}\n\\toprule\n{}\\midrule\n", line(heads.collect()));
        let mut group = None;
        for row in &self.rows {
            if row.group != group {
                text += "\\midrule\n";
                group.clone_from(&row.group);
            }
            let cell = |column: &Column| {
                let Cell { text, bold, rest } = column.cell(self, row);
                let text = in_latex(&text);
                let text = if bold { format!("\\textbf{{{text}}}") } else { text };
                match rest.as_str() {
                    "" => text,
                    rest => format!("{text} {{\\scriptsize {}}}", in_latex(rest.trim_start())),
                }
            };
            text += &line(columns.iter().map(cell).collect());
        }
        text + "\\bottomrule\n\\end{tabular}\n"
    }

    /// The columns for readers.
    fn columns(&self) -> Vec<Column<'_>> {
        let mut columns = vec![Column::Point];
        columns.extend(self.by.as_deref().map(Column::Group));
        columns.extend([Column::Images, Column::Flops(self.unit.name), Column::Saved]);
        if self.rows.iter().any(|row| row.seconds_per_step.is_some()) {
            columns.push(Column::Time);
        }
        for (place, metric) in self.metrics.iter().enumerate() {
            let any = |wanted: fn(&MetricRow) -> bool| {
                self.rows.iter().any(|row| row.metrics.get(place).is_some_and(wanted))
            };
            if any(|found| found.mean.is_some() || found.infinite > 0) {
                columns.push(Column::Metric(place, metric));
            }
            if any(|found| found.difference.is_some()) {
                columns.extend([Column::Difference(place, metric), Column::Wins(place, metric)]);
            }
        }
        columns
    }

    /// Sentences that explain the table.
    fn legend(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{}: 2 x MAC of one sample in one U-Net evaluation, the mean over images.",
                self.unit.name
            ),
            "Brackets: 95 % intervals of the Bayesian bootstrap over prompts.".into(),
            "Bold: on the Pareto front of the measure against FLOPs.".into(),
        ];
        if let Some(machine) = &self.machine {
            lines.push(format!("s/step: median time of a denoising step on {machine}."));
        }
        if let Some(baseline) = &self.baseline {
            let name = match baseline {
                Baseline::Unpruned => "the unpruned point of the same sampling",
                Baseline::Point(id) => {
                    let row = self.rows.iter().find(|row| row.point == *id);
                    row.map_or(id.as_str(), |row| row.label.as_str())
                }
            };
            lines.push(format!(
                "Differences and wins: against {name}, prompt by prompt; a tie is half a win."
            ));
        }
        // a name with a line's end would leave the comment
        lines.iter().map(|line| without_breaks(line)).collect()
    }
}

const NONE: &str = "–";
const MINUS: &str = "−";

/// How a direction is written beside a measure's name.
#[derive(Clone, Copy)]
enum Arrow {
    Unicode,
    Latex,
}

/// A column for readers. Measures have their place in the rows.
enum Column<'a> {
    Point,
    Group(&'a str),
    Images,
    Flops(&'static str),
    Saved,
    Time,
    Metric(usize, &'a Metric),
    Difference(usize, &'a Metric),
    Wins(usize, &'a Metric),
}

/// The text of a cell: a main part, which may be bold, and the rest.
#[derive(Default)]
struct Cell {
    text: String,
    bold: bool,
    rest: String,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A mean with its interval.
    fn mean(mean: Option<Mean>, show: impl Fn(f64) -> String, bold: bool) -> Self {
        let Some(Mean { value, interval, .. }) = mean else { return Self::plain(NONE) };
        let rest = interval.map_or(String::new(), |(low, high)| format!(" [{}, {}]", show(low), show(high)));
        Self { text: show(value), bold, rest }
    }
}

impl Column<'_> {
    fn is_text(&self) -> bool {
        matches!(self, Self::Point | Self::Group(_))
    }

    fn aligned(&self) -> &'static str {
        if self.is_text() { "---" } else { "---:" }
    }

    fn head(&self, arrow: Arrow) -> String {
        let direction = |better: Better| match (arrow, better) {
            (Arrow::Unicode, Better::Higher) => "↑",
            (Arrow::Unicode, Better::Lower) => "↓",
            (Arrow::Latex, Better::Higher) => UP,
            (Arrow::Latex, Better::Lower) => DOWN,
        };
        match self {
            Self::Point => "point".into(),
            Self::Group(key) => (*key).into(),
            Self::Images => "N".into(),
            Self::Flops(unit) => (*unit).into(),
            Self::Saved => "saved".into(),
            Self::Time => "s/step".into(),
            Self::Metric(_, metric) => format!("{} {}", metric.name, direction(metric.better)),
            Self::Difference(_, metric) => format!("Δ {}", metric.name),
            Self::Wins(_, metric) => format!("{} wins", metric.name),
        }
    }

    fn cell(&self, summary: &Summary, row: &SummaryRow) -> Cell {
        let found = |place: &usize| row.metrics.get(*place);
        let difference = |place: &usize| found(place).and_then(|found| found.difference);
        match self {
            Self::Point => Cell::plain(&row.label),
            Self::Group(_) => Cell::plain(row.group.as_deref().unwrap_or(ALL)),
            Self::Images => Cell::plain(row.images.to_string()),
            Self::Flops(_) => {
                Cell::plain(row.tflop.map_or(NONE.into(), |mean| summary.unit.show(mean.value)))
            }
            Self::Saved => {
                let saved = |mean: Mean| format!("{:.1} %", 100.0 * (1.0 - mean.value / row.whole_tflop));
                Cell::plain(row.tflop.map_or(NONE.into(), saved))
            }
            Self::Time => Cell::mean(row.seconds_per_step, |value| plain_number(value, 3), false),
            Self::Metric(place, Metric { digits, .. }) => match found(place) {
                Some(MetricRow { mean: None, infinite: 1.., .. }) => Cell::plain("∞"),
                Some(MetricRow { mean, front, .. }) => {
                    Cell::mean(*mean, |value| plain_number(value, *digits), front.flops)
                }
                None => Cell::plain(NONE),
            },
            Self::Difference(place, Metric { digits, .. }) => {
                let mean = difference(place).and_then(|found| found.mean);
                Cell::mean(mean, |value| signed_number(value, *digits), false)
            }
            Self::Wins(place, _) => match difference(place) {
                Some(Difference { win_rate, .. }) => {
                    let of = format!(" of {}", win_rate.count);
                    Cell { rest: of, ..Cell::plain(format!("{:.0} %", 100.0 * win_rate.value)) }
                }
                None => Cell::plain(NONE),
            },
        }
    }
}

/// A number for readers. Its minus is no hyphen.
fn plain_number(value: f64, digits: usize) -> String {
    format!("{value:.digits$}").replace('-', MINUS)
}

/// A difference for readers, with its sign.
fn signed_number(value: f64, digits: usize) -> String {
    format!("{value:+.digits$}").replace('-', MINUS)
}

/// Stand for arrows until a text is escaped: no label has these characters.
const UP: &str = "\u{1}";
const DOWN: &str = "\u{2}";

/// A text with LaTeX's special characters escaped.
fn in_latex(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => safe.extend(['\\', letter]),
            '\\' => safe.push_str("\\textbackslash{}"),
            '~' => safe.push_str("\\textasciitilde{}"),
            '^' => safe.push_str("\\textasciicircum{}"),
            '<' => safe.push_str("\\textless{}"),
            '>' => safe.push_str("\\textgreater{}"),
            'Δ' => safe.push_str("$\\Delta$"),
            '∞' => safe.push_str("$\\infty$"),
            '–' => safe.push_str("--"),
            '−' => safe.push_str("$-$"),
            '\u{1}' => safe.push_str("$\\uparrow$"),
            '\u{2}' => safe.push_str("$\\downarrow$"),
            other if other.is_control() => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}
