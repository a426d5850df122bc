//! Identifies a file that should hold weights and does not. The error message can then say what went wrong.

/// The longest text that a message quotes.
const SHOWN: usize = 60;

/// The first bytes of other file formats, with a description of each.
const MAGIC: [(&[u8], &str); 8] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "is a Git LFS pointer, not the file: `git lfs pull` fetches it",
    ),
    (b"PK\x03\x04", "is a zip archive, as PyTorch writes them: only safetensors are read"),
    (b"\x80\x02", "is a pickle of PyTorch: only safetensors are read"),
    (b"\x80\x04", "is a pickle: only safetensors are read"),
    (b"GGUF", "is a GGUF file: only safetensors are read"),
    (b"\x89HDF", "is an HDF5 file: only safetensors are read"),
    (b"\x1f\x8b", "is a gzip archive: expected it unpacked"),
    (b"\x93NUMPY", "is a NumPy array: only safetensors are read"),
];

/// Describes a file that is not a safetensors file by its first bytes. `None` if they tell nothing.
pub(crate) fn what_it_is(beginning: &[u8]) -> Option<String> {
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| beginning.starts_with(magic)) {
        return Some((*what).to_string());
    }
    let text = text_of(beginning)?;
    let lower = text.to_ascii_lowercase();
    if ["<!doctype", "<html", "<?xml", "<head"].iter().any(|tag| lower.starts_with(tag)) {
        return Some("is a web page, not weights: its download failed".into());
    }
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    Some(format!("is a text, not weights: {shown:?}"))
}

/// The first nonblank line, if these bytes can be the beginning of a text.
fn text_of(beginning: &[u8]) -> Option<&str> {
    let text = match str::from_utf8(beginning) {
        Ok(text) => text,
        // a character may be cut off at the end
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(beginning.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}');
    if text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    text.lines().map(str::trim).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(bytes: &[u8], what: &str) {
        let said = what_it_is(bytes).unwrap();
        assert!(said.contains(what) && !said.contains('\n'), "{said}");
    }

    #[test]
    fn usual_accidents_are_known() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5135149760\n";
        is(pointer, "git lfs pull");
        is(b"<!DOCTYPE html>\n<html>", "web page");
        is(b"\xef\xbb\xbf\r\n  <HTML lang=\"en\">", "web page");
        is(b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "web page");
        is(
            b"{\"error\":\"Invalid credentials in Authorization header\"}",
            "text, not weights: \"{\\\"error\\\":",
        );
        is(b"\nEntry not found\n", "text, not weights: \"Entry not found\"");
        is("Zugriff verweigert: ü".as_bytes().split_last().unwrap().1, "\"Zugriff verweigert:\"");
        is(b"PK\x03\x04\x00\x00", "zip");
        is(b"\x80\x02}q\x00", "pickle");
        is(b"GGUF\x03\x00", "GGUF");
        is("a".repeat(100).as_bytes(), "aaa…\"");
    }

    #[test]
    fn other_bytes_say_nothing() {
        for bytes in
            [&[][..], b"\x00\x01\x02", b"\xff\xfe\xfd", b"  \n ", b"\x10\x00\x00\x00\x00\x00\x00\x00{\"a\":"]
        {
            assert_eq!(what_it_is(bytes), None, "{bytes:?}");
        }
    }
}
