//! Labels as words of a caption.

use crate::scenes::Size;

/// Longer labels are left out, so that two of them fit into a caption of 20 words.
const MOST_WORDS: usize = 4;

/// A label as a caption says it: lower case, whole words of letters and digits ("one-piece swimsuit" has three). `None` for a
/// label of too many words.
pub(super) fn words(label: &str) -> Option<String> {
    let plain = label.to_lowercase().replace(['\u{2019}', '\''], "").replace('ñ', "n");
    let words: Vec<&str> =
        plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    (1..=MOST_WORDS).contains(&words.len()).then(|| words.join(" "))
}

/// The name under which Iconify has the drawing of a label: its words joined by hyphens.
pub(super) fn slug(label: &str) -> String {
    let plain = label.to_lowercase().replace(['\u{2019}', '\''], "").replace('ñ', "n");
    let words = plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// "a large red apple", "an umbrella", "small grapes".
pub(super) fn noun(label: &str, size: Option<Size>) -> String {
    match (is_plural(label), size) {
        (true, Some(size)) => format!("{} {label}", size.name()),
        (true, None) => label.to_owned(),
        (false, Some(size)) => format!("a {} {label}", size.name()),
        (false, None) => format!("{} {label}", article(label)),
    }
}

/// By spelling: a last word in s that is no singular ending. A guess that is right for the labels of emoji but a few.
fn is_plural(label: &str) -> bool {
    let singular = ["ss", "us", "is", "os"];
    label.ends_with('s') && !singular.iter().any(|ending| label.ends_with(ending))
}

/// By spelling, with the sounds that spelling hides.
fn article(label: &str) -> &'static str {
    let consonants = ["one", "eu", "uni", "ur"];
    let vowels = ["hour", "x ", "8"];
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| label.starts_with(beginning));
    let spelled = label.starts_with(['a', 'e', 'i', 'o', 'u']);
    if starts(&vowels) || (spelled && !starts(&consonants)) { "an" } else { "a" }
}
