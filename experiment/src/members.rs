//! Which files a run's folder may hold. The run's plan decides this, and no file in the folder does.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::layout::{image_path, latents_path};
use super::record::{PromptLine, Record, RunInfo};
use crate::failure::{Failure, Outcome};

/// The greatest length of a point's id. The id names a folder and, with an extension, a file.
pub(crate) const LONGEST_ID: usize = 240;

/// The points and prompts of a run.
#[derive(Debug)]
pub(crate) struct Members {
    /// Ids of points, with their settings' hashes.
    points: HashMap<String, String>,
    /// Ids of prompts.
    prompts: HashSet<String>,
}

impl Members {
    /// The points and prompts of a plan.
    pub(crate) fn of(info: &RunInfo, prompts: &[PromptLine]) -> Self {
        let points = info.points.iter().map(|point| (point.id.clone(), point.config_hash.clone()));
        Self { points: points.collect(), prompts: prompts.iter().map(|prompt| prompt.id.clone()).collect() }
    }

    /// Checks that a record belongs to the run and names the files that the plan gives it. The error says what is wrong.
    pub(crate) fn check(&self, record: &Record) -> Result<(), String> {
        let Record { id, point, prompt_id, .. } = record;
        let hash =
            self.points.get(point).ok_or_else(|| format!("point: the run has none called {point:?}"))?;
        if !self.prompts.contains(prompt_id) {
            return Err(format!("prompt_id: the run has no prompt {prompt_id:?}"));
        }
        let expected = format!("{point}/{prompt_id}");
        if *id != expected {
            return Err(format!("id: expected {expected:?}, got {id:?}"));
        }
        let (image, latents) = (image_path(id), latents_path(id));
        if record.image != image {
            return Err(format!("image: expected {image:?}, got {:?}", record.image));
        }
        if let Some(other) = record.latents.as_ref().filter(|path| **path != latents) {
            return Err(format!("latents: expected {latents:?}, got {other:?}"));
        }
        if record.config_hash != *hash {
            return Err(format!("{id} was made under other settings than the run's"));
        }
        Ok(())
    }
}

/// The path of `name` in a run's folder. A link on the way is an error, since it could lead out of the folder.
pub(crate) fn inside(folder: &Path, name: &str) -> Outcome<PathBuf> {
    let mut place = folder.to_path_buf();
    for part in name.split('/') {
        place.push(part);
        match fs::symlink_metadata(&place) {
            Ok(found) if found.is_symlink() => {
                return Err(Failure::file(&place, "expected no link inside a run's folder"));
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::file(&place, error));
            }
            _ => {}
        }
    }
    Ok(place)
}

/// The regular file `name` in a run's folder, if there is one.
pub(crate) fn file_inside(folder: &Path, name: &str) -> Outcome<Option<PathBuf>> {
    let place = inside(folder, name)?;
    Ok(place.is_file().then_some(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn no_link_leads_out_of_a_run() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir_all(run.join("images/none")).unwrap();
        fs::create_dir(dir.path().join("private")).unwrap();
        fs::write(dir.path().join("private/a.png"), "").unwrap();
        fs::write(run.join("images/none/a.png"), "").unwrap();
        symlink(dir.path().join("private"), run.join("images/link")).unwrap();
        symlink(dir.path().join("private/a.png"), run.join("images/none/b.png")).unwrap();
        symlink("loop", run.join("loop")).unwrap();
        symlink("gone", run.join("dangling")).unwrap();
        assert_eq!(file_inside(&run, "images/none/a.png").unwrap(), Some(run.join("images/none/a.png")));
        assert_eq!(file_inside(&run, "images/none/c.png").unwrap(), None);
        assert_eq!(file_inside(&run, "images/none").unwrap(), None);
        for name in ["images/link/a.png", "images/none/b.png", "loop/a", "dangling"] {
            let message = inside(&run, name).unwrap_err().to_string();
            assert!(message.contains("run's folder") || message.contains("run/"), "{name}: {message}");
        }
        // the run's folder itself may be a link
        symlink(&run, dir.path().join("named")).unwrap();
        assert!(file_inside(&dir.path().join("named"), "images/none/a.png").unwrap().is_some());
    }
}
