//! Stores the loss of every step in a file that a spreadsheet can read.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};
use atedm_sdxl::architecture::MeanLoss;

/// Points of [`Losses::curve`].
const POINTS: u64 = 12;

/// An open `loss.csv` and its contents.
pub(super) struct Losses {
    file: File,
    path: PathBuf,
    all: Vec<(u64, f64)>,
}

impl Losses {
    /// Opens the file and drops the lines after step `done`, because those steps will be done again.
    pub(super) fn open(path: &Path, done: u64) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let old = match std::fs::read_to_string(path) {
            Ok(old) => old,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(io(source)),
        };
        let parsed = |line: &str| {
            let (step, loss) = line.split_once(',')?;
            Some((step.parse().ok()?, loss.parse().ok()?))
        };
        let all = old.lines().filter_map(parsed).filter(|&(step, _)| step <= done).collect();
        let mut losses = Self { file: File::create(path).map_err(io)?, path: path.to_path_buf(), all };
        let mut text = String::from("step,loss\n");
        for (step, loss) in &losses.all {
            text.push_str(&format!("{step},{loss}\n"));
        }
        losses.file.write_all(text.as_bytes()).map_err(io)?;
        Ok(losses)
    }

    /// Adds a step's loss.
    pub(super) fn add(&mut self, step: u64, loss: f64) -> Result<()> {
        self.all.push((step, loss));
        writeln!(self.file, "{step},{loss}").map_err(|source| Error::io(&self.path, source))
    }

    /// The loss curve as the mean losses of at most twelve parts of the steps.
    pub(super) fn curve(&self) -> Vec<MeanLoss> {
        let stretch = self.all.len().div_ceil(POINTS as usize).max(1);
        let mean = |part: &[(u64, f64)]| {
            let sum: f64 = part.iter().map(|(_, loss)| loss).sum();
            Some(MeanLoss { step: part.last()?.0 as usize, loss: sum / part.len() as f64 })
        };
        self.all.chunks(stretch).filter_map(mean).collect()
    }
}
