//! Reads input files. They must be regular files within the size limit of their kind.

use std::fs::{self, File, FileType};
use std::io::Read;
use std::path::Path;

use atedm_sdxl::text_file;

use crate::failure::{Failure, Outcome};

/// The size limit of a configuration or another small text: 4 MiB.
pub const CONFIG_MOST: u64 = 4 << 20;
/// The size limit of a file of prompts or captions: 256 MiB, ten times COCO's.
pub const PROMPTS_MOST: u64 = 256 << 20;
/// The size limit of a file of records or tensors: 4 GiB.
pub const DATA_MOST: u64 = 4 << 30;

/// Opens a regular file. Devices and pipes are refused, because they have no size to check and may never end.
pub(super) fn open_file(path: &Path) -> Outcome<File> {
    let failed = |error: std::io::Error| Failure::file(path, error);
    // check before opening, because opening a pipe waits for its other end
    let kind = fs::metadata(path).map_err(failed)?.file_type();
    if !kind.is_file() {
        return Err(Failure::file(path, format!("expected a regular file, got {}", kind_of(kind))));
    }
    File::open(path).map_err(failed)
}

/// Reads a whole file of at most `most` bytes.
pub fn read_bytes(path: &Path, most: u64) -> Outcome<Vec<u8>> {
    read_from(&mut open_file(path)?, path, most)
}

/// Reads the rest of an open file, after checking its size.
pub fn read_from(file: &mut File, path: &Path, most: u64) -> Outcome<Vec<u8>> {
    let failed = |error: std::io::Error| Failure::file(path, error);
    let long = || Failure::file(path, format!("expected at most {}, got more", size_of(most)));
    if file.metadata().map_err(failed)?.len() > most {
        return Err(long());
    }
    let mut bytes = Vec::new();
    // the file may have grown since, and files of /proc report no size
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most { Err(long()) } else { Ok(bytes) }
}

/// Reads a whole text of at most `most` bytes. It removes the byte order mark that some editors write at the start.
pub fn read_text(path: &Path, most: u64) -> Outcome<String> {
    String::from_utf8(read_bytes(path, most)?).map(text_file::without_mark).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Failure::file(path, format!("line {line}: expected UTF-8 text"))
    })
}

fn kind_of(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "a device or a pipe" }
}

fn size_of(bytes: u64) -> String {
    match bytes {
        large if large >= 1 << 30 => format!("{} GiB", large >> 30),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lose_their_mark_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, "\u{feff}a \u{feff}fox\r\n").unwrap();
        assert_eq!(read_text(&path, CONFIG_MOST).unwrap(), "a \u{feff}fox\r\n");
        fs::write(&path, b"a fox\n\xff\xfea\0").unwrap();
        let message = read_text(&path, CONFIG_MOST).unwrap_err().to_string();
        assert!(message.ends_with("a.txt: line 2: expected UTF-8 text"), "{message}");
    }

    #[test]
    fn a_size_is_looked_at_before_anything_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        // a sparse file: it takes no space on the disk, and would take a terabyte of memory
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let message = read_bytes(&path, DATA_MOST).unwrap_err().to_string();
        assert!(message.ends_with("a.bin: expected at most 4 GiB, got more"), "{message}");
        let message = read_text(&path, CONFIG_MOST).unwrap_err().to_string();
        assert!(message.contains("at most 4 MiB"), "{message}");
        fs::write(&path, [7; 5]).unwrap();
        assert_eq!(read_bytes(&path, 5).unwrap(), [7; 5]);
        assert!(read_bytes(&path, 4).is_err());
    }

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_bytes(dir.path(), 9).unwrap_err().to_string().contains("got a folder"));
        assert!(read_bytes(&dir.path().join("gone"), 9).unwrap_err().to_string().contains("gone"));
        #[cfg(unix)]
        {
            let message = read_text(Path::new("/dev/zero"), 9).unwrap_err().to_string();
            assert_eq!(message, "/dev/zero: expected a regular file, got a device or a pipe");
            let pipe = dir.path().join("pipe");
            assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            assert!(read_text(&pipe, 9).unwrap_err().to_string().contains("pipe"));
        }
    }
}
