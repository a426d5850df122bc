//! The model that comes with the program: the crate `atedm-shapes`, embedded in the binary (feature `embedded`).
//!
//! Weights are memory-mapped from files. So the model is unpacked to a temporary folder while it is in use. The folder
//! is removed when a signal ends the process. A killed process cannot remove its folder. The next process does, because
//! nobody holds the lock of a file in it any more.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::failure::{Failure, Outcome};

/// The model's name for `--model` and `model = …`. A file or folder of that name takes precedence.
pub(crate) const NAME: &str = "atedm-shapes";

/// Whether this name means the built-in model.
pub(crate) fn is_meant(named: &str) -> bool {
    named == NAME && !Path::new(named).exists()
}

/// The prefix of the temporary folders' names.
const PREFIX: &str = "atedm-shapes-";
/// The file whose lock marks a folder as in use.
const IN_USE: &str = "in-use";

/// The model on the disk. Dropping it removes it.
pub(crate) struct Unpacked {
    /// The locked file. It is dropped before its folder.
    _lock: fs::File,
    /// The parent folder, which is removed with it.
    above: TempDir,
    /// [`NAME`] with a hash of the model's files. So models of different builds have different names in results.
    name: String,
}

impl Unpacked {
    /// The model's folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.above.path().join(NAME)
    }

    /// The model's name in results.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// The folder is removed under the lock of [`IN_PLACE`], either here or by [`remove_all`].
impl Drop for Unpacked {
    fn drop(&mut self) {
        let mut in_place = in_place();
        let above = self.above.path();
        // If the folder cannot be removed now, the next run removes it.
        let _ = fs::remove_dir_all(above);
        in_place.retain(|folder| folder != above);
    }
}

/// The folders that this process has unpacked. Code that creates or removes one holds the lock, so no folder can appear
/// while the process ends.
static IN_PLACE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn in_place() -> MutexGuard<'static, Vec<PathBuf>> {
    IN_PLACE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every folder, and calls `end` before another can be created.
#[cfg(unix)]
fn remove_all(end: &dyn Fn()) {
    let in_place = in_place();
    for folder in in_place.iter() {
        let _ = fs::remove_dir_all(folder);
    }
    end();
}

/// Unpacks the model.
pub(crate) fn unpack() -> Outcome<Unpacked> {
    #[cfg(unix)]
    crate::signals::clean_up_with(remove_all);
    unpack_below(&std::env::temp_dir(), &files())
}

/// A file: its path below the model's folder, and its content in parts.
type File = (&'static str, &'static [&'static [u8]]);

/// The files in the binary.
fn files() -> Vec<File> {
    #[cfg(feature = "embedded")]
    return atedm_shapes::FILES.iter().map(|file| (file.path, file.parts)).collect();
    #[cfg(not(feature = "embedded"))]
    return Vec::new();
}

fn unpack_below(temporary: &Path, files: &[File]) -> Outcome<Unpacked> {
    if files.is_empty() {
        let reason =
            "expected a checkpoint: this build lacks the cargo feature `embedded`, so no model is built in";
        return Err(Failure::usage(reason).within("--model"));
    }
    let failed = |error: std::io::Error| {
        Failure::file(temporary, format!("the built-in model cannot be unpacked here: {error}"))
    };
    remove_abandoned(temporary);
    let mut in_place = in_place();
    let above = TempDir::with_prefix_in(PREFIX, temporary).map_err(failed)?;
    let lock = locked(above.path()).map_err(failed)?;
    let folder = above.path().join(NAME);
    let mut sum = Sha256::new();
    for (name, parts) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(failed)?;
        let mut file = fs::File::create(&path).map_err(failed)?;
        let length: usize = parts.iter().map(|part| part.len()).sum();
        sum.update(name.as_bytes());
        sum.update((length as u64).to_le_bytes());
        for part in *parts {
            file.write_all(part).map_err(failed)?;
            sum.update(part);
        }
    }
    let hash: String = sum.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    in_place.push(above.path().to_path_buf());
    Ok(Unpacked { _lock: lock, above, name: format!("{NAME} {hash} (built in)") })
}

/// Marks a folder as in use. The marker file gets its name only after it is locked. A marker without a lock means an
/// abandoned folder.
fn locked(folder: &Path) -> std::io::Result<fs::File> {
    let unmarked = folder.join("new");
    let lock = fs::File::create(&unmarked)?;
    lock.lock()?;
    fs::rename(unmarked, folder.join(IN_USE))?;
    Ok(lock)
}

/// Removes the folders of killed processes. Errors are ignored: such a folder belongs to another user, or is being
/// removed.
fn remove_abandoned(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    let ours = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    for folder in ours.map(|entry| entry.path()) {
        let abandoned = fs::File::open(folder.join(IN_USE)).is_ok_and(|mark| mark.try_lock().is_ok());
        if abandoned {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[File] = &[("a.json", &[b"{}"]), ("unet/b", &[b"1", b"2"])];

    #[test]
    fn a_build_without_it_says_what_to_do() {
        let temporary = tempfile::tempdir().unwrap();
        let failure = unpack_below(temporary.path(), &[]).err().unwrap().to_string();
        assert!(failure.starts_with("--model: expected") && failure.contains("`embedded`"), "{failure}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
        assert_eq!(unpack().is_ok(), cfg!(feature = "embedded"));
    }

    #[test]
    fn only_its_own_name_means_it() {
        assert!(is_meant("atedm-shapes"));
        assert!(!is_meant("./atedm-shapes") && !is_meant("ATEDM-SHAPES") && !is_meant(""));
    }

    #[test]
    fn it_is_removed_after_use() {
        let temporary = tempfile::tempdir().unwrap();
        let unpacked = unpack_below(temporary.path(), TWO).unwrap();
        assert_eq!(fs::read(unpacked.folder().join("unet/b")).unwrap(), b"12");
        assert!(unpacked.folder().starts_with(temporary.path()) && unpacked.folder().ends_with(NAME));
        drop(unpacked);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let alive = unpack_below(temporary.path(), TWO).unwrap();
        let killed = unpack_below(temporary.path(), TWO).unwrap();
        let left = killed.folder();
        // like a kill: the lock is gone, the folder remains
        killed._lock.unlock().unwrap();
        std::mem::forget(killed);
        let others = temporary.path().join("atedm-shapes-other");
        fs::create_dir(&others).unwrap();
        let next = unpack_below(temporary.path(), TWO).unwrap();
        assert!(!left.parent().unwrap().exists());
        assert!(alive.folder().join("a.json").exists() && next.folder().exists() && others.exists());
    }

    #[test]
    fn another_model_has_another_name() {
        let temporary = tempfile::tempdir().unwrap();
        let name = |files: &[File]| unpack_below(temporary.path(), files).unwrap().name().to_string();
        let first = name(TWO);
        assert!(first.starts_with("atedm-shapes ") && first.ends_with(" (built in)"), "{first}");
        assert_eq!(first, name(TWO));
        // the place where a file was split does not matter
        assert_eq!(first, name(&[TWO[0], ("unet/b", &[b"12"])]));
        assert_ne!(first, name(&[TWO[0], ("unet/b", &[b"13"])]));
        assert_ne!(first, name(&[TWO[0], ("unet/c", &[b"12"])]));
    }

    #[test]
    fn where_it_cannot_be_unpacked_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let missing = temporary.path().join("missing");
        let failure = unpack_below(&missing, TWO).err().unwrap().to_string();
        assert!(failure.contains("missing: the built-in model cannot be unpacked here"), "{failure}");
        // a half-written folder does not remain either
        let failure =
            unpack_below(temporary.path(), &[TWO[0], ("a.json/b", &[b""])]).err().unwrap().to_string();
        assert!(failure.contains("cannot be unpacked here"), "{failure}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}
