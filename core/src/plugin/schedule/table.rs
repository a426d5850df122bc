//! A schedule as a table. It stands in a configuration, or in a file whose content the program puts into the configuration.
//!
//! ```toml
//! # The first entry that covers a block and step decides. Without an entry, the configuration's ratio holds.
//! [[entries]]
//! steps = [0, 15]              # from the first, up to and without the second; counts, or shares such as "30%"
//! blocks = ["down.*", "up.1.2"]
//! ratio = 0.0
//!
//! [[entries]]                  # `steps` left out: all; `blocks` left out: all
//! ratio = 0.5
//! ```
//!
//! The same as JSON: `{"entries": [{"steps": [0, 15], "blocks": ["down.*"], "ratio": 0.0}]}`, or the bare list.

use serde::{Deserialize, Serialize};

use super::{PruningSchedule, ScheduleQuery, Tau};
use crate::plugin::{BlockId, BlockName, BlockShape, check_ratio, share};
use crate::{Error, Result};

/// One line of a [`ScheduleTable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleEntry {
    /// Steps `[from, to)` in the full schedule, as counts or shares. Default: all.
    #[serde(default = "all_steps")]
    pub steps: [Tau; 2],
    /// Block names such as `down.1.0`, `mid.0`, `up.0.2`; a part may be `*`, and a last `*` stands for the rest.
    /// Default: `["*"]`.
    #[serde(default = "all_blocks")]
    pub blocks: Vec<String>,
    /// The fraction of tokens to remove there, in `[0, 1)`, or a share such as `"30%"`.
    #[serde(deserialize_with = "share")]
    pub ratio: f64,
}

fn all_steps() -> [Tau; 2] {
    [Tau::Steps(0), Tau::Percent(100.0)]
}

fn all_blocks() -> Vec<String> {
    vec!["*".into()]
}

impl ScheduleEntry {
    fn covers(&self, query: &ScheduleQuery) -> bool {
        let [from, to] = self.steps.map(|bound| bound.steps(query.total));
        (from..to).contains(&query.step) && self.blocks.iter().any(|pattern| matches(pattern, query.block))
    }

    fn validate(&self, field: &str, number: usize) -> Result<()> {
        let field = |name: &str| format!("{field}.entries[{number}].{name}");
        check_ratio(&field("ratio"), self.ratio)?;
        for bound in self.steps {
            bound.validate(&field("steps"))?;
        }
        if let [Tau::Steps(from), Tau::Steps(to)] = self.steps
            && from >= to
        {
            return Err(Error::config(field("steps"), format!("expected from below to, got [{from}, {to}]")));
        }
        if self.blocks.is_empty() {
            return Err(Error::config(field("blocks"), "expected block names or \"*\", got an empty list"));
        }
        for pattern in &self.blocks {
            // A pattern is valid if it becomes a block's name when its stars become numbers.
            let complete = match pattern.as_str() {
                "*" | "down.*" | "mid.*" | "up.*" | "control-down.*" => continue,
                other => other.replace('*', "0"),
            };
            complete.parse::<BlockName>().map_err(|_| {
                let reason = format!(
                    "expected down.S.I, mid.I, up.S.I or NAME.I (each number may be *), got {pattern:?}"
                );
                Error::config(field("blocks"), reason)
            })?;
        }
        Ok(())
    }
}

/// Whether `pattern` stands for `block`.
fn matches(pattern: &str, block: BlockId) -> bool {
    let name = block.name();
    let mut parts = name.split('.');
    let mut patterns = pattern.split('.').peekable();
    while let Some(wanted) = patterns.next() {
        let Some(part) = parts.next() else { return false };
        if wanted == "*" && patterns.peek().is_none() {
            return true;
        }
        if wanted != "*" && wanted != part {
            return false;
        }
    }
    parts.next().is_none()
}

/// A list of entries. The first entry that covers a block and step decides.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleTable {
    /// In order of precedence.
    pub entries: Vec<ScheduleEntry>,
}

impl ScheduleTable {
    /// Checks that every entry is in range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the entry and its field, below `field`.
    pub fn validate(&self, field: &str) -> Result<()> {
        self.entries.iter().enumerate().try_for_each(|(i, entry)| entry.validate(field, i))
    }
}

/// The schedule of a [`ScheduleTable`].
#[derive(Debug, Clone, Default)]
pub struct Table {
    table: ScheduleTable,
}

impl Table {
    /// The schedule of this table.
    ///
    /// # Errors
    /// As [`ScheduleTable::validate`].
    pub fn new(table: ScheduleTable) -> Result<Self> {
        table.validate("table")?;
        Ok(Self { table })
    }
}

impl PruningSchedule for Table {
    fn ratio(&self, query: &ScheduleQuery) -> f64 {
        self.table.entries.iter().find(|entry| entry.covers(query)).map_or(query.ratio, |entry| entry.ratio)
    }
    fn begin(&self, steps: usize) -> Result<()> {
        let mut bounds = self.table.entries.iter().flat_map(|entry| entry.steps);
        bounds.try_for_each(|bound| bound.fits("table.steps", steps))
    }
    /// Checks only names of a transformer's stages, since one table serves U-Nets of any size.
    fn check_blocks(&self, blocks: &[BlockShape]) -> Result<()> {
        let of_unet = |pattern: &str| {
            pattern.split('.').next().is_some_and(|stage| ["*", "down", "mid", "up"].contains(&stage))
        };
        for (i, entry) in self.table.entries.iter().enumerate() {
            let lacking = |pattern: &&String| {
                !of_unet(pattern) && !blocks.iter().any(|block| matches(pattern, block.id))
            };
            if let Some(pattern) = entry.blocks.iter().find(lacking) {
                let reason = format!("the model has no block {pattern:?}");
                return Err(Error::config(format!("table.entries[{i}].blocks"), reason));
            }
        }
        Ok(())
    }
    fn clone_box(&self) -> Box<dyn PruningSchedule> {
        Box::new(self.clone())
    }
}
