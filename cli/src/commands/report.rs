//! `atedm report`: writes one HTML page for a run's folder ([`atedm_experiment::report`]), and tables
//! ([`atedm_experiment::measures`]).

use atedm_experiment::draw::{Chart, View};
use atedm_experiment::files::{NamedFile, OutputDir, OutputFile};
use atedm_experiment::gathered::Gathered;
use atedm_experiment::grid::slug;
use atedm_experiment::measures::{Baseline, Directions, Format, Measures, Summary};
use atedm_experiment::report::{Shown, charts, page, place};

use crate::args::ReportArgs;
use crate::failure::{Failure, Outcome};
use crate::tell;

/// Reads the folder and writes the page and the tables.
pub(crate) fn run(args: &ReportArgs) -> Outcome {
    let run = Gathered::read(&args.folder)?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => place(&args.folder)?,
    };
    let output = OutputFile::prepare(&path)?;
    let prompts = match args.prompt.as_slice() {
        [] => run.first_prompts(args.prompts_shown),
        ids => run.prompts_of(ids).map_err(|failure| failure.within("--prompt"))?,
    };
    let measures = measures(args, &run)?;
    let baseline = args.baseline.as_ref().map(|name| Baseline::named(&run, name)).transpose();
    let baseline = baseline.map_err(|failure| failure.within("--baseline"))?;
    let tables = tables(args, &measures, baseline.as_ref())?;
    let folder = args.charts.as_deref().map(OutputDir::prepare).transpose()?;
    let page = page(&measures, baseline.as_ref(), &Shown { prompts, pixels: args.pixels })?;
    output.write(page.as_bytes())?;
    for (output, table) in &tables {
        output.write(table.as_bytes())?;
    }
    if let Some(folder) = &folder {
        let charts = charts(&run, &Summary::new(&measures, None, None)?);
        folder.write(&charts.iter().map(svg).collect::<Vec<NamedFile>>())?;
    }
    if !args.quiet {
        let (done, total) = (run.records.len(), run.total());
        let size = page.len() as f64 / 1e6;
        tell::line(format_args!(
            "wrote {} ({done} of {total} images, {size:.1} MB)",
            output.path().display()
        ));
        tables.iter().for_each(|(output, _)| tell::line(format_args!("wrote {}", output.path().display())));
    }
    Ok(())
}

/// A chart as a file: `PSNR_against_FLOPs.svg`.
fn svg(chart: &Chart) -> NamedFile {
    let name = chart.title.split(" (").next().unwrap_or_default();
    (format!("{}.svg", slug(name)), chart.to_svg(View::Wide).into_bytes())
}

/// The measures of the run and of the files.
fn measures<'a>(args: &ReportArgs, run: &'a Gathered) -> Outcome<Measures<'a>> {
    let directions: Directions = args.direction.iter().cloned().collect();
    let mut measures = Measures::of(run);
    for path in &args.metrics {
        measures.join(path, &directions).map_err(|failure| failure.within("--metrics"))?;
    }
    let unknown = |name: &&String| measures.metrics().iter().all(|metric| metric.key != **name);
    match directions.keys().find(unknown) {
        Some(name) => Err(Failure::usage(format!(
            "--direction: expected a column of a file of --metrics, got {name:?}"
        ))),
        None => Ok(measures),
    }
}

/// The texts of the tables and where they go.
fn tables(
    args: &ReportArgs,
    measures: &Measures<'_>,
    baseline: Option<&Baseline>,
) -> Outcome<Vec<(OutputFile, String)>> {
    if args.table.is_empty() {
        return Ok(Vec::new());
    }
    let summary = Summary::new(measures, baseline, args.by.as_deref());
    let summary = summary.map_err(|failure| failure.within("--by"))?;
    let table = |path: &std::path::PathBuf| {
        let format = Format::of(path).map_err(|failure| failure.within("--table"))?;
        Ok((OutputFile::prepare(path)?, summary.table(format)?))
    };
    args.table.iter().map(table).collect()
}
