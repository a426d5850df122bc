//! Splits a text into fragments with weights.

use std::collections::HashMap;

use atedm_core::{Error, Result};

use crate::prompt::reading::check_weight;

/// The factors of `+` and `-`.
const UP: f64 = 1.1;
const DOWN: f64 = 0.9;
/// Signs of the syntax. A word contains them only behind a backslash, and `+` and `-` also inside.
const SIGNS: &str = "()\",.+-=";
/// Operators of compel that make another prompt of several, or load a LoRA.
const REFUSED: [&str; 6] = [".blend(", ".and(", ".add(", ".swap(", "withLora(", "useLora("];
/// The deepest nesting of brackets that is read.
const DEEPEST: usize = 64;

/// A part of a text: words, or parts with a weight.
#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Weighted(f64, Vec<Node>),
}

/// What a weight can stand behind.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    /// Something in brackets or quotes. A number may follow.
    Enclosed,
    Word,
}

/// The fragments of a text with their weights, in order. Neighbours have different weights. There is at least one.
///
/// # Errors
/// [`Error::Config`] with the field `prompt` for a weight that is too large, brackets that are nested too deep, and operators
/// that are not supported.
pub(super) fn fragments(prompt: &str) -> Result<Vec<(String, f64)>> {
    if let Some(operator) = REFUSED.into_iter().find(|operator| prompt.contains(operator)) {
        return Err(Error::config("prompt", format!("compel: {operator}…) is not supported")));
    }
    let spaced = space_after_commas(prompt);
    let nodes = Parser::new(&spaced).prompt()?;
    let mut found: Vec<(String, f64)> = Vec::new();
    flatten(&nodes, 1.0, &mut found);
    if found.is_empty() {
        found.push((String::new(), 1.0));
    }
    found.iter().try_for_each(|(_, weight)| check_weight(*weight))?;
    Ok(found)
}

/// Adds the fragments of `nodes`. Neighbours of one weight are joined by a space.
fn flatten(nodes: &[Node], scale: f64, found: &mut Vec<(String, f64)>) {
    for node in nodes {
        match node {
            Node::Weighted(weight, inner) => flatten(inner, scale * weight, found),
            Node::Text(text) => match found.last_mut() {
                Some((last, weight)) if *weight == scale => {
                    last.push(' ');
                    last.push_str(text);
                }
                _ => found.push((text.clone(), scale)),
            },
        }
    }
}

/// Puts a space after each comma that has none.
fn space_after_commas(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        spaced.push(sign);
        if sign == ','
            && let Some(next) = signs.next_if(|next| !next.is_whitespace())
        {
            spaced.push(' ');
            spaced.push(next);
        }
    }
    spaced
}

/// Reads a text from left to right. A part that does not fit the syntax is text.
struct Parser<'a> {
    text: &'a str,
    /// For each place of a bracket that was tried: the parts inside and the end, or that it has no partner.
    tried: HashMap<usize, Option<(Vec<Node>, usize)>>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, tried: HashMap::new() }
    }

    /// The whole text.
    fn prompt(&mut self) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        let mut at = self.skip_space(0);
        while at < self.text.len() {
            at = match self.weighted_or_enclosed(at, 0)? {
                Some((more, end)) => {
                    nodes.extend(more);
                    end
                }
                None => {
                    let end = at + self.rest(at).find(is_space).unwrap_or(self.rest(at).len());
                    nodes.push(Node::Text(unescaped(self.slice(at, end))));
                    end
                }
            };
            at = self.skip_space(at);
        }
        Ok(nodes)
    }

    /// Words with a weight, or something in brackets or quotes.
    fn weighted_or_enclosed(&mut self, at: usize, depth: usize) -> Result<Option<(Vec<Node>, usize)>> {
        if let Some((inner, end)) = self.enclosed(at, depth)? {
            return Ok(Some(match self.weight(end, Target::Enclosed) {
                Some((weight, end)) => (vec![Node::Weighted(weight, inner)], end),
                None => (inner, end),
            }));
        }
        let weighted = self.word(at).and_then(|end| {
            let (weight, after) = self.weight(end, Target::Word)?;
            let inner = vec![Node::Text(unescaped(self.slice(at, end)))];
            Some((vec![Node::Weighted(weight, inner)], after))
        });
        Ok(weighted)
    }

    /// The parts inside brackets or quotes.
    fn enclosed(&mut self, at: usize, depth: usize) -> Result<Option<(Vec<Node>, usize)>> {
        match self.rest(at).chars().next() {
            Some('"') => self.quoted(at, depth),
            Some('(') => {
                if let Some(known) = self.tried.get(&at) {
                    return Ok(known.clone());
                }
                if depth >= DEEPEST {
                    let reason = format!("compel: expected at most {DEEPEST} nested brackets");
                    return Err(Error::config("prompt", reason));
                }
                let (nodes, end) = self.parts(at + 1, depth + 1)?;
                let found = self.rest(end).starts_with(')').then_some((nodes, end + 1));
                self.tried.insert(at, found.clone());
                Ok(found)
            }
            _ => Ok(None),
        }
    }

    /// The parts in quotes. They must be readable to the last sign.
    fn quoted(&mut self, at: usize, depth: usize) -> Result<Option<(Vec<Node>, usize)>> {
        let start = at + 1;
        let inner = self.rest(start);
        let is_end = |(place, sign): &(usize, char)| {
            *sign == '\n' || (*sign == '"' && !inner.get(..*place).is_some_and(|text| text.ends_with('\\')))
        };
        let Some((length, '"')) = inner.char_indices().find(is_end) else { return Ok(None) };
        let inner = self.slice(start, start + length);
        if inner.trim().is_empty() {
            return Ok(Some((vec![Node::Text(String::new())], start + length + 1)));
        }
        let mut parser = Parser::new(inner);
        let (nodes, end) = parser.parts(0, depth + 1)?;
        Ok((end == inner.len()).then_some((nodes, start + length + 1)))
    }

    /// Parts up to a sign that is none. Returns them, and the place of that sign or the end.
    fn parts(&mut self, at: usize, depth: usize) -> Result<(Vec<Node>, usize)> {
        let mut nodes = Vec::new();
        let mut at = self.skip_space(at);
        loop {
            let end = if let Some((more, end)) = self.weighted_or_enclosed(at, depth)? {
                nodes.extend(more);
                end
            } else if let Some(end) = self.word(at) {
                nodes.push(Node::Text(unescaped(self.slice(at, end))));
                end
            } else if self.rest(at).starts_with([',', '.']) {
                nodes.push(Node::Text(self.slice(at, at + 1).to_string()));
                at + 1
            } else {
                return Ok((nodes, at));
            };
            at = self.skip_space(end);
        }
    }

    /// The end of a word without signs that starts at `at`.
    fn word(&self, at: usize) -> Option<usize> {
        let mut end = at;
        while let Some(sign) = self.rest(end).chars().next() {
            let next = self.rest(end + sign.len_utf8()).chars().next();
            let is_sign = |sign: char| SIGNS.contains(sign);
            end += match (sign, next) {
                ('\\', Some(next)) if is_sign(next) => 2,
                ('+' | '-', Some(next)) if !is_sign(next) && !is_space(next) => 1,
                _ if is_sign(sign) || is_space(sign) => break,
                _ => sign.len_utf8(),
            };
        }
        (end > at).then_some(end)
    }

    /// The weight that directly follows a target, and its end.
    fn weight(&self, at: usize, target: Target) -> Option<(f64, usize)> {
        let rest = self.rest(at);
        if let Some(inner) = rest.trim_start_matches(is_space).strip_prefix(".attend") {
            let open = inner.trim_start_matches(is_space).strip_prefix('(')?;
            let inner = open.trim_start_matches(is_space);
            let (weight, length) = operator(inner, Target::Enclosed)?;
            let behind = inner.get(length..)?.trim_start_matches(is_space).strip_prefix(')')?;
            return Some((weight, self.text.len() - behind.len()));
        }
        let (weight, length) = operator(rest, target)?;
        Some((weight, at + length))
    }

    fn skip_space(&self, at: usize) -> usize {
        let rest = self.rest(at);
        at + (rest.len() - rest.trim_start_matches(is_space).len())
    }

    fn rest(&self, at: usize) -> &'a str {
        self.text.get(at..).unwrap_or_default()
    }

    fn slice(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or_default()
    }
}

/// `++`, `--` or, behind brackets and quotes, a number: its weight and its length.
fn operator(text: &str, target: Target) -> Option<(f64, usize)> {
    let run = |sign: char| text.len() - text.trim_start_matches(sign).len();
    match (run('+'), run('-')) {
        (0, 0) => {}
        (0, down) => return Some((DOWN.powi(down as i32), down)),
        (up, _) => return Some((UP.powi(up as i32), up)),
    }
    if target == Target::Word {
        return None;
    }
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let whole = digits(text);
    let length = match text.get(whole..)?.strip_prefix('.') {
        Some(after) if whole > 0 || digits(after) > 0 => whole + 1 + digits(after),
        _ => whole,
    };
    let weight = text.get(..length)?.parse().ok()?;
    Some((weight, length))
}

/// Text without the backslashes before brackets and quotes.
fn unescaped(text: &str) -> String {
    text.replace("\\(", "(").replace("\\)", ")").replace("\\\"", "\"")
}

fn is_space(sign: char) -> bool {
    sign.is_ascii_whitespace() || sign == '\u{b}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(prompt: &str, expected: &[(&str, f64)]) {
        let found = fragments(prompt).unwrap();
        let found: Vec<(&str, f64)> = found.iter().map(|(text, weight)| (text.as_str(), *weight)).collect();
        assert_eq!(found.len(), expected.len(), "{prompt:?}: {found:?}");
        for ((text, weight), (same, close)) in found.iter().zip(expected) {
            assert!(text == same && (weight - close).abs() < 1e-12, "{prompt:?}: {found:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (prompt, named) in [
            ("(a)1000", "prompt: expected weights from -100 to 100, got 1000"),
            ("((a)50)50", "prompt: expected weights from -100 to 100, got 2500"),
            ("a++++++++++++++++++++++++++++++++++++++++++++++++++", "prompt: expected weights"),
            ("(\"a\", \"b\").blend(1, 1)", "prompt: compel: .blend(…) is not supported"),
            ("(\"a\", \"b\").and()", "prompt: compel: .and(…) is not supported"),
            ("a cat.swap(dog)", "prompt: compel: .swap(…) is not supported"),
            ("a fox withLora(fox, 0.5)", "prompt: compel: withLora(…) is not supported"),
        ] {
            let message = fragments(prompt).unwrap_err().to_string();
            assert!(message.contains(named) && !message.contains('\n'), "{prompt}: {message}");
        }
        let nested = format!("{}a{}", "(".repeat(70), ")".repeat(70));
        assert!(fragments(&nested).unwrap_err().to_string().contains("at most 64 nested brackets"));
    }

    #[test]
    fn weights_multiply_and_neighbours_of_one_weight_are_joined() {
        reads("a  tall tree", &[("a tall tree", 1.0)]);
        reads("a tall++ tree-", &[("a", 1.0), ("tall", 1.1 * 1.1), ("tree", 0.9)]);
        reads("a (tall (tree)1.2)1.5", &[("a", 1.0), ("tall", 1.5), ("tree", 1.5 * 1.2)]);
        reads("(a)1.2(b)1.2", &[("a b", 1.2)]);
        reads("", &[("", 1.0)]);
        reads("()", &[("", 1.0)]);
    }

    /// Many brackets without partners take no long time.
    #[test]
    fn brackets_without_partners_are_text() {
        reads("(open", &[("(open", 1.0)]);
        let many = "( ".repeat(60);
        reads(&many, &[(many.trim_end(), 1.0)]);
    }
}
