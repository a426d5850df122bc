//! What the user is told beside a command's answer: the one place that writes to the standard error stream.
//!
//! Every message is one line of at most [`LONGEST`] characters, harmless to a terminal. A stream that is closed or full is
//! no failure: whatever a run makes is worth more than a line about it.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

/// The most characters of a message.
pub(crate) const LONGEST: usize = 300;
/// Values up to this length stay whole in a message that is too long.
const KEPT_WHOLE: usize = 60;
/// What stands where a value was cut.
const CUT: char = '…';

/// A line for the user.
pub(crate) fn line(message: impl Display) {
    // Nobody reads it, or the disk under it is full: the run goes on.
    let _ = io::stderr().write_all(format!("{}\n", shown(&message.to_string())).as_bytes());
}

/// A warning.
pub(crate) fn warning(message: impl Display) {
    line(format_args!("warning: {message}"));
}

/// A message as it may be shown: one line, harmless, not too long.
pub(crate) fn shown(message: &str) -> String {
    shortened(&harmless(&without_breaks(message)))
}

/// Libraries' messages may span lines; ours never do.
fn without_breaks(message: &str) -> String {
    message.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The text with everything escaped that could command a terminal or hide text: control characters (line feeds apart),
/// and invisible characters that turn the direction of writing or break lines. Escapes are JSON's, so that JSON stays what it is.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_harmful(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Joiners (U+200C, U+200D) are part of written words and of emoji, so they stay.
fn is_harmful(character: char) -> bool {
    character.is_control() && character != '\n'
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// At most [`LONGEST`] characters: the longest values are cut in their middle first, then the message itself.
fn shortened(message: &str) -> String {
    let length = |text: &str| text.chars().count();
    let mut excess = length(message).saturating_sub(LONGEST);
    if excess == 0 {
        return message.to_string();
    }
    let mut values: Vec<Cow<'_, str>> = values(message).into_iter().map(Cow::Borrowed).collect();
    while excess > 0 {
        let Some(longest) = values.iter_mut().max_by_key(|value| length(value)) else { break };
        let before = length(longest);
        if before <= KEPT_WHOLE {
            break;
        }
        *longest = Cow::Owned(cut(longest, before.saturating_sub(excess).max(KEPT_WHOLE)));
        excess = excess.saturating_sub(before - length(longest));
    }
    cut(&values.concat(), LONGEST)
}

/// The message in parts: quoted text is one value, any other run without spaces another.
fn values(message: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => quoted(rest).unwrap_or(1),
            ' ' => 1,
            _ => rest.find([' ', '"']).unwrap_or(rest.len()),
        };
        let (part, left) = rest.split_at(end);
        parts.push(part);
        rest = left;
    }
    parts
}

/// Bytes of the quoted text that begins here, its quotation marks included; `None` if nothing ends it.
fn quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(at, character)| match character {
        '"' if !escaped => Some(at + 1),
        _ => {
            escaped = character == '\\' && !escaped;
            None
        }
    })
}

/// The text, or its two ends where it has more than `most` characters.
fn cut(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_string();
    }
    let front = most / 2;
    let back = most - front - 1;
    let begin = text.chars().take(front);
    begin.chain([CUT]).chain(text.chars().skip(count - back)).collect()
}

/// The standard error stream for the libraries' log: harmless, and never an error.
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let _ = io::stderr().write_all(harmless(&text).as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_harmless_line() {
        assert_eq!(shown("a.toml: broken\n  at line 3\r\n"), "a.toml: broken at line 3");
        let hostile = "\u{1b}]0;title\u{7} \u{9b}31m \u{7f} \u{202e}gnp.exe \u{feff}\u{e0041}a\tb";
        let expected = r"\u001b]0;title\u0007 \u009b31m \u007f \u202egnp.exe \ufeff\udb40\udc41a\u0009b";
        assert_eq!(shown(hostile), expected);
        assert_eq!(shown(expected), expected);
        for innocent in ["C:\\temp \"x\" 'y'", "狐 🦊 e\u{301} 👩\u{200d}🚀", "ratio=0.5, τ"] {
            assert_eq!(shown(innocent), innocent);
        }
    }

    #[test]
    fn json_says_the_same_when_it_is_harmless() {
        let value = serde_json::json!({"name": "a\u{1b}[31m\u{7f}\u{9b}\u{202e}\u{e0041}\n"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let escaped = harmless(&text);
        assert!(escaped.is_ascii() && escaped.contains("\\u202e"), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn long_values_lose_their_middle() {
        let count = |text: &str| text.chars().count();
        let path = format!("/start/{}/end.json", "x".repeat(5000));
        let message = shown(&format!("{path}: norm_num_groups: expected at least 1, got 0"));
        assert_eq!(count(&message), LONGEST);
        assert!(message.starts_with("/start/x") && message.contains('…'), "{message}");
        assert!(message.ends_with("x/end.json: norm_num_groups: expected at least 1, got 0"), "{message}");
        // a quoted text is one value, whatever is in it
        let prompt = format!("first {} \\\" last", "word ".repeat(1000));
        let message =
            shown(&format!("warning: encoder 1 takes 77 tokens: the last 930 of {prompt:?} are cut off"));
        assert_eq!(count(&message), LONGEST);
        assert!(
            message.starts_with("warning: encoder 1 takes 77 tokens: the last 930 of \"first word"),
            "{message}"
        );
        assert!(message.ends_with("last\" are cut off"), "{message}");
        // the shorter of two long values stays whole where that is enough
        let (long, short) = ("l".repeat(4000), "s".repeat(100));
        let message = shown(&format!("{long}: {short}: expected less"));
        assert!(message.contains(&short) && count(&message) == LONGEST, "{message}");
    }

    #[test]
    fn a_message_of_short_words_loses_its_middle() {
        for message in ["word ".repeat(500), "é \"".repeat(400), "\"a ".repeat(500)] {
            let message = format!("begin {message} end");
            let shown = shown(&message);
            assert!(shown.chars().count() <= LONGEST && shown.starts_with("begin "), "{shown}");
            assert!(shown.ends_with(" end") && shown.contains('…'), "{shown}");
        }
        let exact = "x".repeat(LONGEST);
        assert_eq!(shown(&exact), exact);
    }
}
