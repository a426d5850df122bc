//! Writes files completely or not at all. A file is first written next to its place under a temporary name, then
//! renamed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use atedm_core::{Error, Result};
use tempfile::{NamedTempFile, TempDir};

/// The prefix of the names of unfinished files and folders. They are still being written, or their writer was killed.
pub const UNFINISHED: &str = ".atedm-";

/// A file below a folder: its path in the folder (parts separated by `/`), and its content.
pub type NamedFile = (String, Vec<u8>);

/// Writes a file or replaces it.
///
/// # Errors
/// [`Error::Io`] naming `path`. The previous file is then unchanged.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = temporary_file(folder_of(path))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    write().map_err(|source| Error::io(path, source))
}

/// Writes files below a folder. A new folder appears with all of them at once. In an existing folder, files of the same
/// names are replaced one by one after all have been written.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn write_folder(path: &Path, files: &[NamedFile]) -> Result<()> {
    let write = || -> io::Result<()> {
        let exists = path.is_dir();
        let parent = folder_of(path);
        fs::create_dir_all(parent)?;
        let staging = temporary_dir(if exists { path } else { parent })?;
        for (name, bytes) in files {
            let place = staging.path().join(name);
            fs::create_dir_all(folder_of(&place))?;
            fs::write(&place, bytes)?;
        }
        if !exists {
            fs::rename(staging.path(), path)?;
            // The folder has moved, so the guard has nothing left to remove.
            let _moved = staging.keep();
            return Ok(());
        }
        for (name, _) in files {
            let place = path.join(name);
            fs::create_dir_all(folder_of(&place))?;
            fs::rename(staging.path().join(name), place)?;
        }
        Ok(())
    };
    write().map_err(|source| Error::io(path, source))
}

/// Makes a folder of the files that `fill` writes into the folder that it gets. `path` must be new or empty. The folder
/// appears whole.
///
/// # Errors
/// The errors of `fill`. [`Error::Io`] naming the folder.
pub fn create_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |source| Error::io(path, source);
    let parent = folder_of(path);
    fs::create_dir_all(parent).map_err(failed)?;
    let staging = temporary_dir(parent).map_err(failed)?;
    fill(staging.path())?;
    // This removes an empty folder, and fails if there are files in it.
    if path.is_dir() {
        fs::remove_dir(path).map_err(failed)?;
    }
    fs::rename(staging.path(), path).map_err(failed)?;
    // The folder has moved: there is nothing left for the guard to remove.
    let _moved = staging.keep();
    Ok(())
}

/// Checks that files can be created in `folder`. It creates one and removes it, because only that detects read-only
/// disks.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn check_writable(folder: &Path) -> Result<()> {
    temporary_file(folder).map(drop).map_err(|source| Error::io(folder, source))
}

/// Removes the unfinished files of a killed process from `folder`, if the folder exists. No other process may write to
/// it.
///
/// # Errors
/// [`Error::Io`] naming the file or folder that cannot be removed.
pub fn remove_unfinished(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::io(folder, source)),
    };
    let unfinished =
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED));
    for place in unfinished.map(|entry| entry.path()) {
        let removed = if place.is_dir() { fs::remove_dir_all(&place) } else { fs::remove_file(&place) };
        removed.map_err(|source| Error::io(&place, source))?;
    }
    Ok(())
}

/// The folder that contains `path`.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(unix)]
fn permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

/// A temporary file with the permissions of any other new file. The default permissions are those for secrets.
fn temporary_file(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(permissions(0o666));
    builder.tempfile_in(folder)
}

fn temporary_dir(folder: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(permissions(0o777));
    builder.tempdir_in(folder)
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
    fn nothing_half_written_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.bin");
        check_writable(dir.path()).unwrap();
        write_file(&file, b"one").unwrap();
        write_file(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        let missing = dir.path().join("no/a.bin");
        assert!(
            write_file(&missing, b"").unwrap_err().to_string().starts_with(&missing.display().to_string())
        );
        assert!(check_writable(&file).is_err());
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn folders_appear_whole_and_keep_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("deep");
        let files = [("a".to_string(), b"1".to_vec()), ("sub/b".to_string(), b"2".to_vec())];
        write_folder(&path, &files).unwrap();
        fs::write(path.join("mine"), b"").unwrap();
        write_folder(&path, &files[..1]).unwrap();
        assert_eq!(names(&path), ["a", "mine", "sub"]);
        // a folder is in the file's place: the only error, and no temporary file remains
        let wrong = [("sub".to_string(), b"3".to_vec())];
        assert!(matches!(write_folder(&path, &wrong), Err(Error::Io { .. })));
        assert_eq!(names(&path), ["a", "mine", "sub"]);
    }

    #[test]
    fn a_created_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/new");
        let fill = |place: &Path| write_file(&place.join("a"), b"1");
        let fails = |place: &Path| fill(place).and_then(|()| write_file(&place.join("missing/b"), b"2"));
        assert!(create_folder(&path, fails).is_err());
        assert_eq!(names(&dir.path().join("deep")), [""; 0]);
        create_folder(&path, fill).unwrap();
        assert_eq!(names(&path), ["a"]);
        // one that is there must be empty
        assert!(create_folder(&path, fill).is_err());
        fs::remove_file(path.join("a")).unwrap();
        create_folder(&path, fill).unwrap();
        assert_eq!((names(&path), names(&dir.path().join("deep"))), (vec!["a".into()], vec!["new".into()]));
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let staging = temporary_dir(folder.path()).unwrap().keep();
        fs::write(staging.join("a"), "1").unwrap();
        let (_, _kept) = temporary_file(folder.path()).unwrap().keep().unwrap();
        write_file(&folder.path().join("whole"), b"2").unwrap();
        remove_unfinished(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["whole"]);
        remove_unfinished(&folder.path().join("none")).unwrap();
    }
}
