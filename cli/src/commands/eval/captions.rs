//! Reads captions with ids, from COCO's annotations or from lines of text.

use std::collections::BTreeMap;
use std::path::Path;

use atedm_core::one_line;
use atedm_experiment::files::{PROMPTS_MOST, read_text};
use atedm_experiment::prompts::{PromptText, Prompts, checked, ending, is_set, names_columns, read_prompts};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};

/// The fields of `captions_val2017.json` that are read.
#[derive(Debug, Deserialize)]
struct Coco {
    annotations: Vec<Annotation>,
}

/// One caption. An image has five or more.
#[derive(Debug, Deserialize)]
struct Annotation {
    id: u64,
    image_id: u64,
    caption: String,
}

/// A line of `prompts.jsonl`, in the form that [`read_prompts`] reads.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: &'a BTreeMap<String, String>,
}

/// Reads the first `limit` captions. The file's name decides the format: `.json` is COCO's; `.jsonl`, `.tsv` and `.csv`
/// are prompts with ids; any other file has one prompt per line. The path may begin with the name of a published set.
pub(super) fn read(path: &Path, limit: Option<usize>) -> Outcome<Prompts> {
    let captions = match ending(path).as_deref() {
        Some("jsonl" | "tsv" | "csv") => read_prompts(path, limit)?,
        _ if is_set(path) => read_prompts(path, limit)?,
        other => {
            let text = read_text(path, PROMPTS_MOST)?;
            let read = if other == Some("json") { coco(&text) } else { lines(&text) };
            let first = |mut captions: Vec<PromptText>| {
                captions.truncate(limit.unwrap_or(usize::MAX));
                checked(captions)
            };
            let texts = read.and_then(first).map_err(|failure| failure.within(path.display()))?;
            Prompts { texts, remark: None }
        }
    };
    if captions.texts.is_empty() {
        return Err(Failure::file(path, "expected at least one caption, got none"));
    }
    Ok(captions)
}

/// For each image, the caption with the lowest annotation id, ordered by image id. The id has COCO's twelve digits, so
/// an image has the same name as its photograph.
fn coco(text: &str) -> Outcome<Vec<PromptText>> {
    let coco: Coco = serde_json::from_str(text)
        .map_err(|error| Failure::run(format!("expected COCO's captions with `annotations`: {error}")))?;
    let mut first: BTreeMap<u64, Annotation> = BTreeMap::new();
    for annotation in coco.annotations {
        let known = first.get(&annotation.image_id);
        if known.is_none_or(|known| annotation.id < known.id) {
            first.insert(annotation.image_id, annotation);
        }
    }
    let prompt = |(image, annotation): (u64, Annotation)| {
        PromptText::new(format!("{image:012}"), one_line(&annotation.caption))
    };
    Ok(first.into_iter().map(prompt).collect())
}

/// Every nonempty line. Its id is its number, counted from 0. A table is refused, because its rows are not prompts.
fn lines(text: &str) -> Outcome<Vec<PromptText>> {
    let prompt = |(number, line): (usize, &str)| {
        let of_table = |what: &str| {
            let reason = format!("line {}: expected a prompt, got {what}", number + 1);
            Failure::usage(format!("{reason}: a table's name ends in .tsv or .csv"))
        };
        let line = line.trim();
        if line.contains('\t') {
            return Err(of_table("columns between tabs"));
        }
        let names: Vec<String> = line.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
        if number == 0 && names_columns(&names) {
            return Err(of_table(&format!("names of columns ({line})")));
        }
        Ok(PromptText::new(format!("{number:06}"), line))
    };
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    filled.map(prompt).collect()
}

/// The captions as `prompts.jsonl`.
pub(super) fn to_jsonl(captions: &[PromptText]) -> Outcome<String> {
    let mut text = String::new();
    for PromptText { id, text: prompt, seed, groups } in captions {
        let line = Line { id, prompt, seed: *seed, groups };
        text.push_str(&serde_json::to_string(&line).map_err(Failure::run)?);
        text.push('\n');
    }
    Ok(text)
}

/// A field of open_clip's lists, which pandas reads: tab-separated, quoted if necessary.
pub(super) fn field(text: &str) -> String {
    match text.contains(['\t', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_caption_by_annotation_id_counts() {
        let text = r#"{"info": {}, "images": [{"id": 1}], "annotations": [
            {"image_id": 139, "id": 9, "caption": "second"}, {"image_id": 139, "id": 3, "caption": " first\n one "},
            {"image_id": 7, "id": 100, "caption": "other"}]}"#;
        let found = coco(text).unwrap();
        let pairs: Vec<(&str, &str)> = found.iter().map(|p| (p.id.as_str(), p.text.as_str())).collect();
        assert_eq!(pairs, [("000000000007", "other"), ("000000000139", "first one")]);
        assert!(coco("[]").unwrap_err().to_string().contains("annotations"));
    }

    #[test]
    fn lines_are_numbered_as_they_stand() {
        let found = lines("a fox\n\n  an owl, a prompt \nprompt\n").unwrap();
        let pairs: Vec<(&str, &str)> = found.iter().map(|p| (p.id.as_str(), p.text.as_str())).collect();
        assert_eq!(pairs, [("000000", "a fox"), ("000002", "an owl, a prompt"), ("000003", "prompt")]);
        for (text, named) in [
            ("a fox\n1\tan owl\n", "line 2: expected a prompt, got columns between tabs"),
            ("id,Prompt\n1,a fox\n", "line 1: expected a prompt, got names of columns (id,Prompt)"),
            ("caption\na fox\n", "line 1: expected a prompt, got names of columns"),
        ] {
            let message = lines(text).unwrap_err().to_string();
            assert!(message.contains(named) && message.contains(".tsv"), "{message}");
        }
    }

    #[test]
    fn fields_are_quoted_where_pandas_needs_it() {
        assert_eq!(field("a man's dog, 2 cats"), "a man's dog, 2 cats");
        assert_eq!(field("a \"red\" fox"), "\"a \"\"red\"\" fox\"");
    }
}
