//! Published sets of prompts, read from the files that their users have. None of them comes with this program.
//!
//! | name | file | prompts |
//! |---|---|---|
//! | `drawbench` | the sheet of Saharia et al. (Imagen, 2022), saved as CSV | 200 |
//! | `parti` | `PartiPrompts.tsv` of google-research/parti (Yu et al. 2022) | 1,632 |
//! | `mlperf-coco` | `captions_source.tsv` of MLPerf inference for SD-XL (mlcommons/inference) | 5,000 |

use std::path::Path;

use sha2::{Digest, Sha256};

use super::table::{Columns, Layout, with_names};
use super::text::{PromptText, Prompts};
use crate::delimited::{Separator, rows};
use crate::failure::{Failure, Outcome};
use crate::files::{PROMPTS_MOST, read_text};

/// A published set of prompts.
#[derive(Debug)]
pub(super) struct PromptSet {
    /// Its name in front of a path: `parti:PartiPrompts.tsv`.
    name: &'static str,
    /// The names of its columns.
    heads: &'static [&'static str],
    /// The place of the column with the prompts.
    text: usize,
    /// The place of the column with ids. Without one, rows are numbered from 0.
    id: Option<usize>,
    layout: Layout,
    prompts: usize,
    /// The SHA-256 of the published file, where there is one.
    hash: Option<&'static str>,
}

const SETS: [PromptSet; 3] = [
    PromptSet {
        name: "drawbench",
        heads: &["Prompts", "Category"],
        text: 0,
        id: None,
        layout: Layout { separator: Separator::Comma, quoted: true },
        prompts: 200,
        // everyone saves the sheet by themselves
        hash: None,
    },
    PromptSet {
        name: "parti",
        heads: &["Prompt", "Category", "Challenge", "Note"],
        text: 0,
        id: None,
        // one prompt begins with a quoted word, so quotes are no table's
        layout: Layout { separator: Separator::Tab, quoted: false },
        prompts: 1632,
        hash: Some("fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb"),
    },
    PromptSet {
        name: "mlperf-coco",
        heads: &["id", "image_id", "caption", "height", "width", "file_name", "coco_url"],
        text: 2,
        id: Some(0),
        layout: Layout { separator: Separator::Tab, quoted: true },
        prompts: 5000,
        hash: Some("2eeb95637b30fe5af26dd644bafa7affe4e5472ad0bda32d0feb1bd261280d5e"),
    },
];

impl PromptSet {
    /// The set that a path names, and the path behind its name: `parti:FILE`.
    pub(super) fn named(path: &Path) -> Option<(&'static Self, &Path)> {
        let (name, rest) = path.to_str()?.split_once(':')?;
        SETS.iter().find(|set| set.name == name).map(|set| (set, Path::new(rest)))
    }

    /// The name in front of a path, with its colon.
    pub(super) fn prefix(&self) -> String {
        format!("{}:", self.name)
    }

    /// Reads the set from a file. The remark says if the file is not the published one.
    pub(super) fn read(&self, path: &Path) -> Outcome<Prompts> {
        let text = read_text(path, PROMPTS_MOST)?;
        let texts = self.texts(&text).map_err(|failure| failure.within(path.display()))?;
        let hash: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let remark = self.hash.filter(|known| *known != hash).map(|known| {
            let shown = path.display();
            format!("{shown}: expected the published file of {} (SHA-256 {known}), got {hash}", self.name)
        });
        Ok(Prompts { texts, remark })
    }

    fn texts(&self, text: &str) -> Outcome<Vec<PromptText>> {
        let Self { name, heads, text: place, id, layout, prompts, .. } = self;
        let expected = || heads.join(", ");
        let Some(first) = rows(text, layout.separator, layout.quoted).next().transpose()? else {
            return Err(Failure::usage(format!("expected the columns of {name} ({})", expected())));
        };
        let names: Vec<String> = first.fields.iter().map(|head| head.trim().to_string()).collect();
        if names != *heads {
            let got = names.join(", ");
            return Err(first.wrong(format!("expected the columns of {name} ({}), got {got}", expected())));
        }
        let columns = Columns::new(names.iter().map(|name| name.to_ascii_lowercase()).collect(), *place, *id);
        let texts = with_names(text, *layout, &columns)?;
        if texts.len() != *prompts {
            let got = texts.len();
            return Err(Failure::usage(format!("expected the {prompts} prompts of {name}, got {got}")));
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_prompts;
    use super::*;

    /// An invented file in the form of a set.
    fn file(folder: &Path, heads: &str, count: usize, row: impl Fn(usize) -> String) -> std::path::PathBuf {
        let path = folder.join("file");
        let lines: String = (0..count).map(|number| row(number) + "\n").collect();
        std::fs::write(&path, format!("{heads}\n{lines}")).unwrap();
        path
    }

    fn read(name: &str, path: &Path) -> Outcome<Prompts> {
        read_prompts(Path::new(&format!("{name}:{}", path.display())), None)
    }

    #[test]
    fn sets_are_read_with_their_categories() {
        let folder = tempfile::tempdir().unwrap();
        let path =
            file(folder.path(), "Prompts,Category", 200, |n| format!("\"a {n}, or two\",Colors {}", n % 11));
        let Prompts { texts, remark } = read("drawbench", &path).unwrap();
        assert_eq!(
            (texts.len(), texts[13].id.as_str(), texts[13].text.as_str()),
            (200, "000013", "a 13, or two")
        );
        assert_eq!(
            (texts[13].groups["category"].as_str(), texts[13].groups.len(), remark),
            ("Colors 2", 1, None)
        );
        let head = "Prompt\tCategory\tChallenge\tNote";
        let path = file(folder.path(), head, 1632, |n| format!("\"W O R D\" on {n}\tArts\tBasic\t"));
        let Prompts { texts, remark } = read("parti", &path).unwrap();
        assert_eq!(texts[7].text, "\"W O R D\" on 7");
        assert_eq!(
            texts[7].groups.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(),
            [("category", "Arts"), ("challenge", "Basic")]
        );
        let remark = remark.unwrap();
        assert!(remark.contains("file: expected the published file of parti (SHA-256 fab29e41"), "{remark}");
        let head = "id\timage_id\tcaption\theight\twidth\tfile_name\tcoco_url";
        let path = file(folder.path(), head, 5000, |n| {
            format!("{}\t{n}\t\"a \"\"sign\"\" {n}\"\t640\t480\tx\ty", n + 70)
        });
        let Prompts { texts, .. } = read("mlperf-coco", &path).unwrap();
        let found = texts.iter().find(|prompt| prompt.id == "73").unwrap();
        assert_eq!((found.text.as_str(), found.groups.len()), ("a \"sign\" 3", 0));
    }

    #[test]
    fn another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "Prompts,Category", 199, |n| format!("a {n},Colors"));
        let said = read("drawbench", &path).unwrap_err().to_string();
        assert!(said.ends_with("file: expected the 200 prompts of drawbench, got 199"), "{said}");
        let said = read("parti", &path).unwrap_err().to_string();
        let expected =
            "line 1: expected the columns of parti (Prompt, Category, Challenge, Note), got Prompts,Category";
        assert!(said.ends_with(expected), "{said}");
        let said = read("drawbench", &folder.path().join("gone")).unwrap_err().to_string();
        assert!(said.contains("gone"), "{said}");
    }
}
