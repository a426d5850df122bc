//! Messages to the user, in addition to a command's answer. Only this file writes to the standard error stream.
//!
//! Every message is one line of at most [`LONGEST`] characters, without characters that could control a terminal. A
//! closed or full stream is no failure, because the result of a run is worth more than a message.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

use atedm_experiment::failure::without_breaks;

/// The longest message, in characters.
pub(crate) const LONGEST: usize = 300;
/// In a message that is too long, values up to this length are not cut.
const KEPT_WHOLE: usize = 60;
/// The mark for a cut value.
const CUT: char = '…';

/// Writes a line for the user.
pub(crate) fn line(message: impl Display) {
    // If nobody reads it, or the disk is full, the run continues.
    let _ = io::stderr().write_all(format!("{}\n", shown(&message.to_string())).as_bytes());
}

/// Writes a warning.
pub(crate) fn warning(message: impl Display) {
    line(format_args!("warning: {message}"));
}

/// Makes a message safe to show: one line, without control characters, not too long.
pub(crate) fn shown(message: &str) -> String {
    shortened(&harmless(&without_breaks(message)))
}

/// Escapes characters that could control a terminal or hide text. These are control characters except line feeds, and
/// invisible characters that change the writing direction or break lines. Escapes are JSON's, so JSON stays valid and
/// equal.
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

/// Joiners (U+200C, U+200D) are part of words and of emoji, so they are not escaped.
fn is_harmful(character: char) -> bool {
    character.is_control() && character != '\n'
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Shortens a message to [`LONGEST`] characters. The longest values are cut in their middle first, then the message
/// itself.
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

/// Splits a message into values: a quoted text is one value, and so is any other run without spaces.
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

/// The length in bytes of the quoted text at the start, with its quotation marks. `None` if it is not closed.
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

/// The text, or its two ends if it has more than `most` characters.
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

/// The standard error stream for the libraries' log. It escapes harmful characters and never fails.
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
        // a quoted text is one value, whatever its content
        let prompt = format!("first {} \\\" last", "word ".repeat(1000));
        let message =
            shown(&format!("warning: encoder 1 takes 77 tokens: the last 930 of {prompt:?} are cut off"));
        assert_eq!(count(&message), LONGEST);
        assert!(
            message.starts_with("warning: encoder 1 takes 77 tokens: the last 930 of \"first word"),
            "{message}"
        );
        assert!(message.ends_with("last\" are cut off"), "{message}");
        // the shorter of two long values is not cut if that suffices
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
