//! `example-own-experiment CHECKPOINT [STEPS]` prints the table of the experiment on a checkpoint's folder.
//!
//! `cargo run -p atedm-shapes --example write -- FOLDER` writes such a folder.

use std::io::{Error, Write, stdout};
use std::path::Path;

use example_own_experiment::{away_from_the_mean, table};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let checkpoint = arguments.next().ok_or_else(|| Error::other("expected a checkpoint's folder"))?;
    let steps = arguments.next().map_or(Ok(20), |steps| steps.parse())?;
    let rows = away_from_the_mean(Path::new(&checkpoint), steps)?;
    stdout().write_all(table(&rows).as_bytes())?;
    Ok(())
}
