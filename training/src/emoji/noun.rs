//! Labels as words of a caption.

use crate::scenes::Size;

/// Longer labels are left out, so that two labels fit into a caption of 20 words.
const MOST_WORDS: usize = 4;

/// A label in the form that a caption uses: lower case, whole words of letters and digits ("one-piece swimsuit" has
/// three). `None` if the label has too many words.
pub(super) fn words(label: &str) -> Option<String> {
    let plain = label.to_lowercase().replace(['\u{2019}', '\''], "").replace('ñ', "n");
    let words: Vec<&str> =
        plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    (1..=MOST_WORDS).contains(&words.len()).then(|| words.join(" "))
}

/// Iconify's name for the drawing of a label: the label's words joined by hyphens.
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

/// Decides by spelling: the last word ends in s, and the ending is not one of a singular. This guess is right for all but
/// a few labels of emoji.
fn is_plural(label: &str) -> bool {
    let singular = ["ss", "us", "is", "os"];
    label.ends_with('s') && !singular.iter().any(|ending| label.ends_with(ending))
}

/// Decides by spelling, with exceptions for sounds that the spelling does not show.
fn article(label: &str) -> &'static str {
    let consonants = ["one", "eu", "uni", "ur"];
    let vowels = ["hour", "x ", "8"];
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| label.starts_with(beginning));
    let spelled = label.starts_with(['a', 'e', 'i', 'o', 'u']);
    if starts(&vowels) || (spelled && !starts(&consonants)) { "an" } else { "a" }
}
