//! Flags of `atedm report`.

use std::path::PathBuf;

use atedm_experiment::measures::Better;
use clap::Args;

use super::parse;

/// Parses the direction of a measure.
fn direction(text: &str) -> Result<(String, Better), String> {
    let expected = "expected a measure and its direction, as in lpips=lower";
    let (name, better) = text.rsplit_once('=').ok_or(expected)?;
    Ok((name.to_string(), better.parse().map_err(|_| expected)?))
}

/// Flags of `atedm report`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  atedm report fig10                      writes fig10/report.html\n  \
    atedm report fig10 --output page.html --prompts-shown 12 --pixels 512\n  \
    atedm report fig10 --metrics clip.csv --baseline at-edm --table table1.tex --table table1.csv")]
pub(crate) struct ReportArgs {
    /// Folder of an ablation, finished or not; its shards are included
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// The page [default: DIR/report.html]
    #[arg(long, short, value_name = "FILE.html")]
    pub(crate) output: Option<PathBuf>,
    /// Show the images of this many prompts (the first with images); tables and curves always include all prompts
    #[arg(long, value_name = "N", default_value = "6", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) prompts_shown: usize,
    /// Show the images of the prompt with this id instead (repeatable)
    #[arg(long, value_name = "ID", conflicts_with = "prompts_shown")]
    pub(crate) prompt: Vec<String>,
    /// Longer side of the images in the page, in pixels; larger images are shrunk
    #[arg(long, value_name = "PIXELS", default_value = "320", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) pixels: usize,
    /// Measures of other programs: .csv, .tsv or .jsonl with columns point, prompt, and a column for each measure, named
    /// with its direction: clip:higher, lpips:lower; without the column prompt, of points as a whole (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Vec<PathBuf>,
    /// The direction of a column of --metrics whose name does not say it (repeatable)
    #[arg(long, value_name = "NAME=higher|lower", value_parser = direction)]
    pub(crate) direction: Vec<(String, Better)>,
    /// Compare each point with this one, prompt by prompt: a point's id or label, or `unpruned` for the unpruned point of
    /// the same sampling
    #[arg(long, value_name = "POINT")]
    pub(crate) baseline: Option<String>,
    /// Also write the table of results here; the name's ending says how: .csv, .md or .tex (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) table: Vec<PathBuf>,
    /// Also write every chart of the page as SVG into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) charts: Option<PathBuf>,
    /// Split the tables of --table by a property of the prompts, such as category
    #[arg(long, value_name = "PROPERTY", requires = "table")]
    pub(crate) by: Option<String>,
    /// Print no message about the written page
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
