//! Prompts in a table with commas or tabs between its columns. The first row names the columns.
//!
//! A short row, two columns of one name or a quote without its end could be read in two ways, and each would be a run of other
//! prompts. Such a table is an error that names the line.

use super::text::PromptText;
use crate::delimited::{Row, Separator, rows};
use crate::failure::Outcome;

/// The names of the column with prompts.
const TEXT: [&str; 2] = ["caption", "prompt"];
/// Names of columns in tables of other programs. A row with one of these words names columns.
const OTHERS: [&str; 9] =
    ["captions", "prompts", "text", "title", "description", "image_id", "file_name", "filename", "filepath"];

/// Columns that tables of results can group prompts by.
const GROUPS: [&str; 2] = ["category", "challenge"];

/// How a table is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// The sign between two columns.
    pub(super) separator: Separator,
    /// Whether fields may be in quotes.
    pub(super) quoted: bool,
}

/// Reads the prompts of a table, in the table's order. The columns are `caption` or `prompt`, and, if present, `id`, `seed`,
/// `category` and `challenge`; other columns are ignored. Without `id`, rows are numbered from 0. Without names of columns, each line is an id, a tab and a
/// prompt.
///
/// # Errors
/// A usage failure with the line and the columns.
pub(super) fn read_table(text: &str, separator: Separator) -> Outcome<Vec<PromptText>> {
    // an id and a prompt may have quotes that are no table's
    let quoted = separator == Separator::Comma;
    let Some(first) = rows(text, separator, quoted).next().transpose()? else { return Ok(Vec::new()) };
    match Columns::named(&first, separator)? {
        Some(columns) => with_names(text, Layout { separator, quoted: true }, &columns),
        None => without_names(text),
    }
}

/// Whether the fields of a line look like names of columns.
pub fn names_columns(fields: &[String]) -> bool {
    let word = |field: &String| !field.is_empty() && !field.contains(char::is_whitespace);
    fields.iter().all(word)
        && fields.iter().any(|field| TEXT.contains(&field.as_str()) || OTHERS.contains(&field.as_str()))
}

/// Which column holds what.
pub(super) struct Columns {
    names: Vec<String>,
    text: usize,
    id: Option<usize>,
    seed: Option<usize>,
    groups: Vec<(&'static str, usize)>,
}

impl Columns {
    /// Columns whose places are known. Those of groups are found by their names.
    pub(super) fn new(names: Vec<String>, text: usize, id: Option<usize>) -> Self {
        let group = |key: &'static str| Some((key, names.iter().position(|name| name == key)?));
        let groups = GROUPS.into_iter().filter_map(group).collect();
        Self { names, text, id, seed: None, groups }
    }

    /// From a first row; `None` if it names no columns but holds an id and a prompt.
    fn named(first: &Row, separator: Separator) -> Outcome<Option<Self>> {
        let name = |field: &str| field.trim().trim_matches('"').to_ascii_lowercase();
        let names: Vec<String> = first.fields.iter().map(name).collect();
        let listed = names.join(", ");
        let named = |wanted: &str| -> Outcome<Option<usize>> {
            let mut places =
                names.iter().enumerate().filter(|(_, name)| *name == wanted).map(|(place, _)| place);
            match (places.next(), places.next()) {
                (_, Some(_)) => {
                    Err(first.wrong(format!("expected one column {wanted}, got columns {listed}")))
                }
                (place, None) => Ok(place),
            }
        };
        let text = match (named(TEXT[0])?, named(TEXT[1])?) {
            (Some(_), Some(_)) => {
                let reason = format!("expected a column caption or prompt, got both in columns {listed}");
                return Err(first.wrong(reason));
            }
            (text, None) | (None, text) => text,
        };
        let (id, seed) = (named("id")?, named("seed")?);
        let bare = separator == Separator::Tab && names.len() == 2;
        match text {
            // an id, a tab, and a prompt that is the word
            Some(1) if bare && id.is_none() && !names_columns(&names[..1]) => Err(first.wrong(format!(
                "expected columns id and prompt, or an id and a prompt, got {listed}, which may be either"
            ))),
            Some(text) if !bare || names_columns(&names) || id.is_some() => {
                Ok(Some(Self { seed, ..Self::new(names, text, id) }))
            }
            _ if bare && !names_columns(&names) => Ok(None),
            _ if separator == Separator::Tab && names.len() == 1 => Err(first.wrong(
                "expected an id, a tab and a prompt, or the names of columns with caption or prompt among them",
            )),
            _ => Err(first.wrong(format!(
                "expected the names of columns with caption or prompt among them, got {} columns: {listed}",
                names.len()
            ))),
        }
    }
}

/// The prompts of a table whose first row names its columns.
pub(super) fn with_names(text: &str, layout: Layout, columns: &Columns) -> Outcome<Vec<PromptText>> {
    let Columns { names, text: place, id, seed, groups } = columns;
    let name = |place: usize| names.get(place).map_or("", String::as_str);
    let prompt = |(number, row): (usize, Outcome<Row>)| {
        let row = row?;
        if row.fields.len() != names.len() {
            let reason =
                format!("expected {} columns ({}), got {}", names.len(), names.join(", "), row.fields.len());
            return Err(row.wrong(reason));
        }
        let words = row.field(*place).trim();
        if words.is_empty() {
            return Err(row.wrong(format!("column {}: expected a text, got nothing", name(*place))));
        }
        // some captions have line ends within them
        let text = match words.contains(['\n', '\r']) {
            true => words.split_whitespace().collect::<Vec<_>>().join(" "),
            false => words.to_string(),
        };
        let seed = seed.map(|seed| row.field(seed).trim()).filter(|seed| !seed.is_empty());
        let number_of = |text: &str| {
            text.parse().map_err(|_| row.wrong(format!("column seed: expected a whole number, got {text:?}")))
        };
        let group = |(key, place): &(&str, usize)| (key.to_string(), row.field(*place).trim().to_string());
        Ok(PromptText {
            id: id.map_or_else(|| format!("{number:06}"), |id| row.field(id).trim().to_string()),
            text,
            seed: seed.map(number_of).transpose()?,
            groups: groups.iter().map(group).filter(|(_, value)| !value.is_empty()).collect(),
        })
    };
    rows(text, layout.separator, layout.quoted).skip(1).enumerate().map(prompt).collect()
}

/// An id, a tab and a prompt on each line, in which quotes are quotes.
fn without_names(text: &str) -> Outcome<Vec<PromptText>> {
    let prompt = |row: Outcome<Row>| {
        let row = row?;
        match row.fields.len() {
            2 => Ok(PromptText::new(row.field(0).trim(), row.field(1).trim())),
            1 => Err(row.wrong("expected an id, a tab and a prompt")),
            more => Err(row.wrong(format!("expected an id, a tab and a prompt, got {more} columns"))),
        }
    };
    rows(text, Separator::Tab, false).map(prompt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, separator: Separator) -> Vec<(String, String)> {
        let prompts = read_table(text, separator).unwrap();
        prompts.into_iter().map(|prompt| (prompt.id, prompt.text)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(id, text)| (id.to_string(), text.to_string())).collect()
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let mlperf = "id\timage_id\tcaption\theight\twidth\tfile_name\tcoco_url\n\
                      7\t139\tA red circle\t640\t426\ta.jpg\thttp://a\n\
                      8\t285\t\"A \"\"small\"\" cat\"\t640\t480\tb.jpg\thttp://b\n";
        let expected = pairs(&[("7", "A red circle"), ("8", "A \"small\" cat")]);
        assert_eq!(read(mlperf, Separator::Tab), expected);
        assert_eq!(read("id\tprompt\nfox\ta red fox\n", Separator::Tab), pairs(&[("fox", "a red fox")]));
        let commas = "id,prompt\r\n1,\"a red, small fox\"\r\n\r\n2,an \"owl\"\r\n";
        let expected = pairs(&[("1", "a red, small fox"), ("2", "an \"owl\"")]);
        assert_eq!(read(commas, Separator::Comma), expected);
        // rows are numbered where there is no id; a caption may have line ends within it
        let expected = pairs(&[("000000", "a b c"), ("000001", "d")]);
        assert_eq!(read("Caption\n\"a b\nc\"\n\nd\n", Separator::Comma), expected);
        assert_eq!(read("\"id\"\t\"caption\"\n9\ta b\n", Separator::Tab), pairs(&[("9", "a b")]));
        assert_eq!(read("image_id\tcaption\n9\ta b\n", Separator::Tab), pairs(&[("000000", "a b")]));
        let grouped = read_table("prompt,Category,note\na,arts,x\nb,,y\n", Separator::Comma).unwrap();
        assert_eq!((grouped[0].groups["category"].as_str(), grouped[0].groups.len()), ("arts", 1));
        assert!(grouped[1].groups.is_empty());
        let seeds = read_table("seed,prompt\n5,a\n,b\n", Separator::Comma).unwrap();
        assert_eq!([seeds[0].seed, seeds[1].seed], [Some(5), None]);
        assert!(read_table("\n", Separator::Comma).unwrap().is_empty());
    }

    #[test]
    fn two_columns_without_names_are_an_id_and_a_prompt() {
        let text = "a\t\"quoted\" one\n\nid\tthe prompt of id\nb\t\"two\n";
        let expected = pairs(&[("a", "\"quoted\" one"), ("id", "the prompt of id"), ("b", "\"two")]);
        assert_eq!(read(text, Separator::Tab), expected);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (text, separator, named) in [
            ("id\tcaption\n1\ta\tb\n", Separator::Tab, "line 2: expected 2 columns (id, caption), got 3"),
            ("id,caption\n\n1\n", Separator::Comma, "line 3: expected 2 columns (id, caption), got 1"),
            (
                "id\tcaption\tprompt\n1\ta\tb\n",
                Separator::Tab,
                "line 1: expected a column caption or prompt, got both",
            ),
            (
                "caption,id,caption\n",
                Separator::Comma,
                "line 1: expected one column caption, got columns caption, id, caption",
            ),
            (
                "1,a fox\n2,an owl\n",
                Separator::Comma,
                "line 1: expected the names of columns with caption or prompt",
            ),
            (
                "filepath\ttitle\na.png\ta fox\n",
                Separator::Tab,
                "line 1: expected the names of columns with caption or prompt among them, got 2 columns: filepath, title",
            ),
            ("1\t139\ta fox\n", Separator::Tab, "got 3 columns: 1, 139, a fox"),
            (
                "a\tone\nb\ttwo\tb.jpg\n",
                Separator::Tab,
                "line 2: expected an id, a tab and a prompt, got 3 columns",
            ),
            ("fox\tprompt\nowl\tan owl\n", Separator::Tab, "which may be either"),
            (
                "id\tprompt\n1\t\"red\" fox\n",
                Separator::Tab,
                "line 2: column 2: expected a field quoted whole",
            ),
            (
                "id\tprompt\n1\t\"a fox\n2\tan owl\n",
                Separator::Tab,
                "line 2: column 2: expected a field quoted whole",
            ),
            (
                "id\tprompt\n1\t\"a fox\n2\tan owl\"\n",
                Separator::Tab,
                "line 2: column 2: expected a field quoted whole",
            ),
            ("id,prompt\n1,\n", Separator::Comma, "line 2: column prompt: expected a text"),
            (
                "id,prompt,seed\n1,a,-2\n",
                Separator::Comma,
                "line 2: column seed: expected a whole number, got \"-2\"",
            ),
        ] {
            let message = read_table(text, separator).unwrap_err().to_string();
            assert!(message.contains(named), "{text:?}\nexpected {named:?} in: {message}");
        }
    }
}
