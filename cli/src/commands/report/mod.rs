//! `atedm report`: one HTML page of a run's folder, with everything in it: tables, curves, images.

mod curves;
mod figures;
mod gallery;
mod html;
mod page;
mod tables;

use super::gathered::Gathered;
use crate::args::ReportArgs;
use crate::experiment::members::inside;
use crate::failure::Outcome;
use crate::files::OutputFile;
use crate::tell;
use gallery::Shown;

/// Reads the folder and writes the page.
pub(crate) fn run(args: &ReportArgs) -> Outcome {
    let run = Gathered::read(&args.folder)?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => inside(&args.folder, "report.html")?,
    };
    let output = OutputFile::prepare(&path)?;
    let shown =
        Shown { prompts: run.prompts_to_show(&args.prompt, args.prompts_shown)?, pixels: args.pixels };
    let page = page::page(&run, &shown)?;
    output.write(page.as_bytes())?;
    if !args.quiet {
        let (done, total) = (run.records.len(), run.total());
        let size = page.len() as f64 / 1e6;
        tell::line(format_args!(
            "wrote {} ({done} of {total} images, {size:.1} MB)",
            output.path().display()
        ));
    }
    Ok(())
}
