//! `atedm report`: writes one HTML page for a run's folder ([`atedm_experiment::report`]).

use atedm_experiment::files::OutputFile;
use atedm_experiment::gathered::Gathered;
use atedm_experiment::report::{Shown, page, place};

use crate::args::ReportArgs;
use crate::failure::Outcome;
use crate::tell;

/// Reads the folder and writes the page.
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
    let page = page(&run, &Shown { prompts, pixels: args.pixels })?;
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
