//! Reads the two packages: drawings with names, and labels by group.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::OnceLock;

use atedm_core::{Error, Result};
use resvg::usvg::{Options, Tree};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::noun::{slug, words};
use super::sprite::Sprite;

/// A drawing with its words.
pub(super) struct Icon {
    /// Its name in the icon set.
    pub(super) name: String,
    /// Its words in captions.
    pub(super) label: String,
    tree: Tree,
    sprite: OnceLock<Sprite>,
}

impl Icon {
    /// The drawing in pixels.
    pub(super) fn sprite(&self) -> &Sprite {
        self.sprite.get_or_init(|| Sprite::of(&self.tree))
    }
}

/// `icons.json` (the Iconify JSON format).
#[derive(Deserialize)]
struct IconSet {
    icons: HashMap<String, Body>,
    #[serde(default)]
    aliases: HashMap<String, Alias>,
    #[serde(default = "usual_side")]
    width: f64,
    #[serde(default = "usual_side")]
    height: f64,
}

#[derive(Deserialize)]
struct Body {
    body: String,
    #[serde(default)]
    left: f64,
    #[serde(default)]
    top: f64,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Deserialize)]
struct Alias {
    parent: String,
}

/// The format's default for an absent side.
fn usual_side() -> f64 {
    16.0
}

/// An entry of emojibase's `data.json`.
#[derive(Deserialize)]
struct Entry {
    label: String,
    group: Option<u32>,
}

/// Emojibase's `groups.json`.
#[derive(Deserialize)]
struct Groups {
    groups: BTreeMap<u32, String>,
}

/// The drawings of these groups whose label fits a caption. They are sorted by name, and each name and each label occurs
/// once.
pub(super) fn read(folder: &Path, groups: &[String]) -> Result<Vec<Icon>> {
    let icons_file = folder.join("noto/icons.json");
    let set: IconSet = json(&icons_file)?;
    let entries: Vec<Entry> = json(&folder.join("emojibase/en/data.json"))?;
    let known: Groups = json(&folder.join("emojibase/meta/groups.json"))?;
    let wanted = groups.iter().map(|name| {
        let found = known.groups.iter().find(|(_, group)| *group == name);
        found.map(|(number, _)| *number).ok_or_else(|| {
            let names: Vec<&str> = known.groups.values().map(String::as_str).collect();
            Error::config("groups", format!("expected some of {}, got {name:?}", names.join(", ")))
        })
    });
    let wanted = wanted.collect::<Result<Vec<u32>>>()?;

    let mut labels = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.group.is_some_and(|group| wanted.contains(&group))) {
        let name = slug(&entry.label);
        if let (Some(label), Some(_)) = (words(&entry.label), set.body(&name)) {
            labels.insert(name, label);
        }
    }
    let mut icons = Vec::with_capacity(labels.len());
    for (name, label) in labels {
        let Some(body) = set.body(&name) else { continue };
        let svg = set.svg(body);
        let tree = Tree::from_str(&svg, &Options::default()).map_err(|error| {
            Error::config(icons_file.display().to_string(), format!("icons.{name}: expected SVG: {error}"))
        })?;
        icons.push(Icon { name, label, tree, sprite: OnceLock::new() });
    }
    Ok(icons)
}

impl IconSet {
    /// The drawing of a name. The name may also be an alias.
    fn body(&self, name: &str) -> Option<&Body> {
        // Follows aliases of aliases. The bound also ends a circle of aliases.
        const FARTHEST: usize = 5;
        let mut name = name;
        for _ in 0..FARTHEST {
            if let Some(body) = self.icons.get(name) {
                return Some(body);
            }
            name = &self.aliases.get(name)?.parent;
        }
        None
    }

    fn svg(&self, body: &Body) -> String {
        let (width, height) = (body.width.unwrap_or(self.width), body.height.unwrap_or(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" width=\"{width}\" \
             height=\"{height}\" viewBox=\"{} {} {width} {height}\">{}</svg>",
            body.left, body.top, body.body
        )
    }
}

fn json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let bytes = std::fs::read(file).map_err(|source| Error::io(file, source))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::config(file.display().to_string(), error.to_string()))
}
