//! Output files and folders. They are checked before the run, written next to their place, then renamed into it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use atedm_sdxl::output::{self, folder_of};

use crate::failure::{Failure, Outcome};

/// A file that will be written at the end of a run.
#[derive(Debug, Clone)]
pub struct OutputFile {
    path: PathBuf,
    /// Whether it is a device or a pipe. Nothing can be renamed onto one.
    special: bool,
}

impl OutputFile {
    /// Checks that the file can be written, before any work is done.
    pub fn prepare(path: &Path) -> Outcome<Self> {
        let special = match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                return Err(Failure::file(path, "expected a file to write, got a folder"));
            }
            Ok(found) => !found.is_file(),
            Err(_) => false,
        };
        if path.file_name().is_none() {
            return Err(Failure::file(path, "expected the name of a file to write"));
        }
        if !special {
            check_writable(folder_of(path)).map_err(|failure| failure.within(path.display()))?;
        }
        Ok(Self { path: path.to_path_buf(), special })
    }

    /// The path as the user typed it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file completely or not at all.
    pub fn write(&self, bytes: &[u8]) -> Outcome {
        if self.special {
            return fs::write(&self.path, bytes).map_err(|error| Failure::file(&self.path, error));
        }
        Ok(output::write_file(&self.path, bytes)?)
    }
}

/// Refuses two outputs with the same path.
pub fn check_distinct(outputs: &[&OutputFile]) -> Outcome {
    let mut seen = HashSet::new();
    for output in outputs.iter().filter(|output| !output.special) {
        let folder = fs::canonicalize(folder_of(&output.path)).unwrap_or_default();
        if !seen.insert((folder, output.path.file_name().map(ToOwned::to_owned))) {
            return Err(Failure::usage(format!(
                "{}: expected each output to have its own path",
                output.path.display()
            )));
        }
    }
    Ok(())
}

pub use output::NamedFile;

/// A folder that appears with all its files at once.
#[derive(Debug)]
pub struct OutputDir {
    path: PathBuf,
    exists: bool,
}

impl OutputDir {
    /// Checks that the folder is writable or can be created, before any work is done.
    pub fn prepare(path: &Path) -> Outcome<Self> {
        let exists = match fs::metadata(path) {
            Ok(found) if found.is_dir() => true,
            Ok(_) => return Err(Failure::file(path, "expected a folder, got a file")),
            Err(_) => false,
        };
        let nearest = path.ancestors().find(|folder| !folder.as_os_str().is_empty() && folder.exists());
        check_writable(nearest.unwrap_or(Path::new(".")))
            .map_err(|failure| failure.within(path.display()))?;
        Ok(Self { path: path.to_path_buf(), exists })
    }

    /// Refuses a folder that is not empty.
    pub fn require_empty(self) -> Outcome<Self> {
        if self.exists {
            let mut entries = fs::read_dir(&self.path).map_err(|error| Failure::file(&self.path, error))?;
            if entries.next().is_some() {
                return Err(Failure::file(
                    &self.path,
                    "expected a new or an empty folder, got one with files in it",
                ));
            }
        }
        Ok(self)
    }

    /// The path as the user typed it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes files and moves them into the folder. A new folder appears with all of them at once. In an existing
    /// folder, files of the same names are replaced one by one.
    pub fn write(&self, files: &[NamedFile]) -> Outcome {
        Ok(output::write_folder(&self.path, files)?)
    }
}

/// Checks that `folder` is a folder in which files can be created.
fn check_writable(folder: &Path) -> Outcome {
    match fs::metadata(folder) {
        Err(_) => return Err(Failure::run(format!("expected the folder {} to exist", folder.display()))),
        Ok(found) if !found.is_dir() => {
            return Err(Failure::run(format!("expected {} to be a folder", folder.display())));
        }
        Ok(_) => {}
    }
    let unwritable = |error: atedm_core::Error| Failure::run(format!("expected a writable folder {error}"));
    output::check_writable(folder).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_whole_and_checks_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let file = OutputFile::prepare(&path).unwrap();
        assert!(names(dir.path()).is_empty());
        file.write(b"one").unwrap();
        file.write(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.bin"]);
        let twice = OutputFile::prepare(&dir.path().join(".").join("a.bin")).unwrap();
        assert!(check_distinct(&[&file, &twice]).is_err());
    }

    #[test]
    fn unwritable_places_are_found_out_early() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        for bad in ["no/such/out.png", "file/out.png", "."] {
            let message = OutputFile::prepare(&dir.path().join(bad)).unwrap_err().to_string();
            assert!(message.contains(bad), "{message}");
        }
        assert!(OutputDir::prepare(&dir.path().join("file")).is_err());
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn folders_appear_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("deep");
        let files = [("a".to_string(), b"1".to_vec()), ("sub/b".to_string(), b"2".to_vec())];
        OutputDir::prepare(&path).unwrap().require_empty().unwrap().write(&files).unwrap();
        assert_eq!(names(&path), ["a", "sub"]);
        assert_eq!(names(path.parent().unwrap()), ["deep"]);
        let again = OutputDir::prepare(&path).unwrap();
        again.write(&files[..1]).unwrap();
        assert_eq!(names(&path), ["a", "sub"]);
        assert!(again.require_empty().is_err());
    }
}
