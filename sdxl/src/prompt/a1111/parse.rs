//! Splits a text into fragments with weights.

use atedm_core::{Error, Result};

use crate::prompt::reading::check_weight;

/// The word that ends a chunk.
const BREAK: &str = "BREAK";
/// The weight that marks it.
const BREAKS: f64 = -1.0;
/// The factor of a round bracket. A square bracket divides by it.
const STEP: f64 = 1.1;

/// A part of a text with one weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fragment {
    pub(super) text: String,
    pub(super) weight: f64,
}

impl Fragment {
    /// Whether it ends a chunk. A weighted `BREAK` is a word.
    pub(super) fn is_break(&self) -> bool {
        self.text == BREAK && self.weight == BREAKS
    }
}

/// A sign of the syntax, or text between signs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece<'a> {
    /// The text behind a backslash; empty for a lone backslash.
    Escaped(&'a str),
    OpenRound,
    OpenSquare,
    /// `:1.2)`, whole and as its number.
    Weight(&'a str, &'a str),
    CloseRound,
    CloseSquare,
    Text(&'a str),
}

/// The fragments of a text, in order. Neighbours have different weights.
///
/// # Errors
/// [`Error::Config`] with the field `prompt` for a weight that is no number or too large, and for parts of the web UI's
/// syntax that change a prompt during the run.
pub(super) fn fragments(prompt: &str) -> Result<Vec<Fragment>> {
    refuse_words(prompt)?;
    let mut found: Vec<Fragment> = Vec::new();
    let (mut round, mut square): (Vec<usize>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
    let scale = |found: &mut Vec<Fragment>, from: usize, factor: f64| {
        found.iter_mut().skip(from).for_each(|fragment| fragment.weight *= factor);
    };
    let mut at = 0;
    while let Some((piece, length)) = prompt.get(at..).and_then(next) {
        at += length;
        match piece {
            Piece::OpenRound => round.push(found.len()),
            Piece::OpenSquare => square.push((found.len(), at)),
            Piece::Escaped(sign) => found.push(Fragment { text: sign.to_string(), weight: 1.0 }),
            Piece::Weight(whole, number) => match round.pop() {
                Some(from) => scale(&mut found, from, read_weight(number)?),
                None => add_text(&mut found, whole),
            },
            Piece::CloseRound => match round.pop() {
                Some(from) => scale(&mut found, from, STEP),
                None => add_text(&mut found, ")"),
            },
            Piece::CloseSquare => match square.pop() {
                Some((from, start)) => {
                    refuse_schedule(prompt.get(start..at - length).unwrap_or_default())?;
                    scale(&mut found, from, 1.0 / STEP);
                }
                None => add_text(&mut found, "]"),
            },
            Piece::Text(text) => add_text(&mut found, text),
        }
    }
    round.into_iter().for_each(|from| scale(&mut found, from, STEP));
    square.into_iter().for_each(|(from, _)| scale(&mut found, from, 1.0 / STEP));
    let mut merged: Vec<Fragment> = Vec::new();
    for fragment in found {
        match merged.last_mut() {
            Some(last) if last.weight == fragment.weight => last.text.push_str(&fragment.text),
            _ => merged.push(fragment),
        }
    }
    merged.iter().try_for_each(|fragment| check_weight(fragment.weight))?;
    Ok(merged)
}

/// Whether a text has weights in the form `(words:1.2)`.
pub fn looks_weighted(prompt: &str) -> bool {
    let (mut at, mut open) = (0, 0usize);
    while let Some((piece, length)) = prompt.get(at..).and_then(next) {
        at += length;
        match piece {
            Piece::OpenRound => open += 1,
            Piece::CloseRound => open = open.saturating_sub(1),
            Piece::Weight(_, number) if open > 0 => {
                if number.parse::<f64>().is_ok() {
                    return true;
                }
                open -= 1;
            }
            _ => {}
        }
    }
    false
}

/// The first piece of a text and its length in bytes; `None` at the end.
fn next(text: &str) -> Option<(Piece<'_>, usize)> {
    let sign = text.chars().next()?;
    Some(match sign {
        '\\' => {
            let behind = text.get(1..).unwrap_or_default();
            let length = behind.chars().next().filter(|c| "()[]\\".contains(*c)).map_or(0, char::len_utf8);
            (Piece::Escaped(behind.get(..length).unwrap_or_default()), 1 + length)
        }
        '(' => (Piece::OpenRound, 1),
        '[' => (Piece::OpenSquare, 1),
        ')' => (Piece::CloseRound, 1),
        ']' => (Piece::CloseSquare, 1),
        ':' => match weight(text) {
            Some((number, length)) => (Piece::Weight(text.get(..length).unwrap_or_default(), number), length),
            None => (Piece::Text(":"), 1),
        },
        _ => {
            let length = text.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(text.len());
            (Piece::Text(text.get(..length).unwrap_or_default()), length)
        }
    })
}

/// The number in `:1.2)` at the start of a text, and the length of the whole. Spaces may surround the number.
fn weight(text: &str) -> Option<(&str, usize)> {
    let inner = text.strip_prefix(':')?;
    let (before, _) = inner.split_once(')')?;
    let number = before.trim();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let fits = !digits.is_empty() && digits.chars().all(|c| c == '.' || c.is_ascii_digit());
    fits.then_some((number, before.len() + 2))
}

fn read_weight(number: &str) -> Result<f64> {
    let weight = number
        .parse()
        .map_err(|_| Error::config("prompt", format!("expected a number as weight, got {number:?}")))?;
    check_weight(weight)?;
    Ok(weight)
}

/// Adds text that may contain `BREAK` as a word of its own.
fn add_text(found: &mut Vec<Fragment>, text: &str) {
    let mut rest = text;
    while let Some(at) = word(rest, BREAK) {
        let (before, after) = rest.split_at(at);
        found.push(Fragment { text: before.trim_end().to_string(), weight: 1.0 });
        found.push(Fragment { text: BREAK.to_string(), weight: BREAKS });
        rest = after.get(BREAK.len()..).unwrap_or_default().trim_start();
    }
    found.push(Fragment { text: rest.to_string(), weight: 1.0 });
}

/// The place of `word` in `text`, if it stands alone.
fn word(text: &str, word: &str) -> Option<usize> {
    let of_word = |c: char| c.is_alphanumeric() || c == '_';
    let alone = |at: &usize| {
        let before = text.get(..*at).and_then(|text| text.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(of_word) && !after.is_some_and(of_word)
    };
    text.match_indices(word).map(|(at, _)| at).find(alone)
}

/// Refuses what makes several prompts of one, and names of networks.
fn refuse_words(prompt: &str) -> Result<()> {
    let refused = |what: &str| {
        let reason = format!("a1111: {what} is not supported");
        Err(Error::config("prompt", reason))
    };
    if word(prompt, "AND").is_some() {
        return refused("AND, which joins prompts,");
    }
    match ["<lora:", "<lyco:", "<hypernet:"].into_iter().find(|tag| prompt.contains(tag)) {
        Some(tag) => refused(&format!("{tag}…> in a prompt")),
        None => Ok(()),
    }
}

/// Refuses `[from:to:when]` and `[a|b]`, which change the prompt during the run.
fn refuse_schedule(inner: &str) -> Result<()> {
    let when = inner.rsplit_once(':').is_some_and(|(_, when)| {
        let when = when.trim();
        when.parse::<f64>().is_ok_and(f64::is_finite)
            && when.ends_with(|c: char| c.is_ascii_digit() || c == '.')
    });
    if !when && !inner.contains('|') {
        return Ok(());
    }
    let reason = format!("a1111: [{inner}] changes the prompt during the run, which is not supported");
    Err(Error::config("prompt", reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(prompt: &str, expected: &[(&str, f64)]) {
        let found = fragments(prompt).unwrap();
        let found: Vec<(&str, f64)> = found.iter().map(|f| (f.text.as_str(), f.weight)).collect();
        assert_eq!(found.len(), expected.len(), "{prompt:?}: {found:?}");
        for ((text, weight), (same, close)) in found.iter().zip(expected) {
            assert!(text == same && (weight - close).abs() < 1e-12, "{prompt:?}: {found:?}");
        }
    }

    #[test]
    fn brackets_multiply_weights() {
        reads("normal text", &[("normal text", 1.0)]);
        reads("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
        reads("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
        reads("a [quiet] hill", &[("a ", 1.0), ("quiet", 1.0 / 1.1), (" hill", 1.0)]);
        let nested: f64 = 1.3 * 1.1 * 1.1;
        reads(
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            &[
                ("a ", 1.0),
                ("house", nested),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.1f64.powi(4)),
                (".", 1.1),
            ],
        );
        reads("(a: 1.5 ) b", &[("a", 1.5), (" b", 1.0)]);
        reads("(a:-.5)", &[("a", -0.5)]);
        reads("", &[]);
    }

    #[test]
    fn signs_without_a_partner_are_no_errors() {
        reads("(unbalanced", &[("unbalanced", 1.1)]);
        reads("[open", &[("open", 1.0 / 1.1)]);
        reads("closed) and]", &[("closed) and]", 1.0)]);
        reads("time 12:30) (a:b)", &[("time 12:30) ", 1.0), ("a:b", 1.1)]);
    }

    #[test]
    fn a_backslash_makes_a_sign_text() {
        reads(r"\(literal\]", &[("(literal]", 1.0)]);
        reads(r"(a \(b\):1.2)", &[("a (b)", 1.2)]);
        reads(r"a \\ b \c", &[(r"a \ b c", 1.0)]);
    }

    #[test]
    fn break_is_a_word_without_brackets() {
        reads("a cat BREAK  a dog", &[("a cat", 1.0), (BREAK, BREAKS), ("a dog", 1.0)]);
        reads("BREAK", &[("", 1.0), (BREAK, BREAKS), ("", 1.0)]);
        reads("BREAKFAST, breaks", &[("BREAKFAST, breaks", 1.0)]);
        reads("(a BREAK b)", &[("a", 1.1), (BREAK, -1.1), ("b", 1.1)]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (prompt, named) in [
            ("(a:1.2.3)", "prompt: expected a number as weight, got \"1.2.3\""),
            ("(a:.)", "prompt: expected a number as weight, got \".\""),
            ("(a:1000)", "prompt: expected weights from -100 to 100, got 1000"),
            ("((a:50):50)", "prompt: expected weights from -100 to 100, got 2500"),
            ("a [cat:dog:0.5]", "prompt: a1111: [cat:dog:0.5] changes the prompt during the run"),
            ("[cat:10]", "[cat:10] changes"),
            ("[cow|horse]", "[cow|horse] changes"),
            ("a cat AND a dog", "prompt: a1111: AND, which joins prompts, is not supported"),
            ("a <lora:fox:0.8>", "prompt: a1111: <lora:…> in a prompt is not supported"),
        ] {
            let message = fragments(prompt).unwrap_err().to_string();
            assert!(message.contains(named) && !message.contains('\n'), "{prompt}: {message}");
        }
        reads("a [b:c] SAND", &[("a ", 1.0), ("b:c", 1.0 / 1.1), (" SAND", 1.0)]);
    }

    #[test]
    fn weights_are_recognised() {
        assert!(looks_weighted("a (red fox:1.2)") && looks_weighted("((a):.5)") && looks_weighted("(a: 2 )"));
        let without = ["a (red) fox", "12:30)", r"\(a:1.2\)", "(a:b)", "fox:1.2", "(a:1.2.3)", ""];
        assert!(without.into_iter().all(|prompt| !looks_weighted(prompt)));
    }
}
