//! Reads text files: configurations, vocabularies, prompts.

use std::path::Path;

use atedm_core::{Error, Result};

/// Reads a UTF-8 file. It removes the byte order mark that some editors write at the start.
///
/// # Errors
/// [`Error::Io`] if it cannot be read or is not UTF-8.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    std::fs::read_to_string(path).map(without_mark).map_err(|source| Error::io(path, source))
}

/// Removes a byte order mark at the start of the text.
pub fn without_mark(mut text: String) -> String {
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len_utf8());
    }
    text
}

const BYTE_ORDER_MARK: char = '\u{feff}';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mark_at_the_start_is_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        for (written, read_back) in [("\u{feff}a\u{feff}b", "a\u{feff}b"), ("ab", "ab"), ("\u{feff}", "")] {
            std::fs::write(&file, written).unwrap();
            assert_eq!(read(&file).unwrap(), read_back);
        }
        std::fs::write(&file, [0xff, 0xfe, b'a', 0]).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("a.txt: ") && error.contains("UTF-8"), "{error}");
    }
}
