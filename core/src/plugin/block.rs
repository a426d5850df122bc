//! The names of blocks.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::{Error, Result};

/// One attention block: a run of transformer layers. In a U-Net it lies between convolutions. In a transformer all
/// its layers have one form.
///
/// A U-Net's block is written `down.1.0`, `mid.0` or `up.0.2`: the stage, the stage's index and the block's index
/// in it. (diffusers writes `down_blocks.1.attentions.0`.) A transformer names its stages: `double.0`, `single.0`,
/// `blocks.3`. A transformer that is a single run of layers may be `mid.0` ([`BlockId::whole`]). A ControlNet's blocks
/// are written like those of its U-Net: `control-down.1.0`, `control-mid.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// The part of the model.
    pub stage: Stage,
    /// The index of the down or up stage, counted from the input, in a ControlNet too. 0 for other stages.
    pub stage_index: usize,
    /// The index of the attention block within the stage.
    pub index: usize,
    /// The number of attention blocks in the stage.
    pub count: usize,
    /// Resolution level: 0 is the full latent size. Each downsampling adds one.
    pub level: usize,
}

/// The part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Before the middle of a U-Net, where the resolution falls.
    Down,
    /// The middle of a U-Net. A transformer that is a single run of layers may use it, too.
    Mid,
    /// After the middle of a U-Net, where the resolution rises.
    Up,
    /// A stage of a transformer, with its name.
    Named(StageName),
    /// The way down of a ControlNet: a copy of a U-Net's, which runs beside it.
    ControlDown,
    /// The middle of a ControlNet.
    ControlMid,
}

/// The name of a transformer's stage: 1 to 16 lower-case letters, digits, `-` and `_`, with a letter first. The
/// names `down`, `mid` and `up` are reserved for U-Nets, `control-down` and `control-mid` for ControlNets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageName {
    /// The text, padded with zeros.
    bytes: [u8; Self::MOST],
}

impl StageName {
    const MOST: usize = 16;

    /// Makes a name of `text`.
    ///
    /// # Errors
    /// [`Error::Config`] with field `block` when the text breaks these rules.
    pub fn new(text: &str) -> Result<Self> {
        let lower = |byte: u8| byte.is_ascii_lowercase();
        let fits = text.bytes().all(|byte| lower(byte) || byte.is_ascii_digit() || b"-_".contains(&byte))
            && text.bytes().next().is_some_and(lower)
            && text.len() <= Self::MOST
            && !["down", "mid", "up", "control-down", "control-mid"].contains(&text);
        if !fits {
            let reason = format!(
                "expected a stage's name of at most {} lower-case letters, digits, - and _, got {text:?}",
                Self::MOST
            );
            return Err(Error::config("block", reason));
        }
        let mut bytes = [0; Self::MOST];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, byte)| *to = byte);
        Ok(Self { bytes })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let len = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(Self::MOST);
        std::str::from_utf8(&self.bytes[..len]).unwrap_or_default()
    }

    /// A number for the name (FNV-1a). It is part of the seeds of random generators.
    fn number(&self) -> u32 {
        self.as_str()
            .bytes()
            .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

impl fmt::Debug for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl BlockId {
    /// The block of a model that is one run of transformer layers: `mid.0` at level 0.
    pub fn whole() -> Self {
        Self { stage: Stage::Mid, stage_index: 0, index: 0, count: 1, level: 0 }
    }

    /// Block `index` of the `count` blocks of a transformer's stage, at level 0. An example is `double.0`.
    ///
    /// # Errors
    /// As [`StageName::new`].
    pub fn named(stage: &str, index: usize, count: usize) -> Result<Self> {
        Ok(Self { stage: Stage::Named(StageName::new(stage)?), stage_index: 0, index, count, level: 0 })
    }

    /// Whether the prune-less schedule leaves this block whole (paper, section 3.3). It does so for the first block
    /// of a down stage and the last of an up stage. A ControlNet is treated like its U-Net. A transformer has no such
    /// block.
    pub fn is_stage_edge(&self) -> bool {
        match self.stage {
            Stage::Down | Stage::ControlDown => self.index == 0,
            Stage::Mid | Stage::ControlMid | Stage::Named(_) => false,
            Stage::Up => self.index + 1 == self.count,
        }
    }

    /// The name: `down.1.0`, `mid.0`, `up.0.2`, `double.0`.
    pub fn name(&self) -> String {
        self.to_string()
    }

    /// Numbers that identify the block: of the part of the model, of the stage, and of the block in it. They are
    /// part of the seeds of random generators.
    pub fn numbers(&self) -> [u32; 3] {
        let (part, stage) = match self.stage {
            Stage::Down => (0, self.stage_index as u32),
            Stage::Mid => (1, self.stage_index as u32),
            Stage::Up => (2, self.stage_index as u32),
            Stage::Named(name) => (3, name.number()),
            Stage::ControlDown => (4, self.stage_index as u32),
            Stage::ControlMid => (5, self.stage_index as u32),
        };
        [part, stage, self.index as u32]
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Stage::Down => write!(f, "down.{}.{}", self.stage_index, self.index),
            Stage::Mid => write!(f, "mid.{}", self.index),
            Stage::Up => write!(f, "up.{}.{}", self.stage_index, self.index),
            Stage::Named(name) => write!(f, "{name}.{}", self.index),
            Stage::ControlDown => write!(f, "control-down.{}.{}", self.stage_index, self.index),
            Stage::ControlMid => write!(f, "control-mid.{}", self.index),
        }
    }
}

impl Serialize for BlockId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A block's name as configs and mask files hold it, without the facts that only the model knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockName(pub String);

impl FromStr for BlockName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        let is_number = |part: &str| part.parse::<usize>().is_ok();
        let fits = match parts.as_slice() {
            ["down" | "up" | "control-down", stage, index] => is_number(stage) && is_number(index),
            ["mid" | "control-mid", index] => is_number(index),
            [name, index] => StageName::new(name).is_ok() && is_number(index),
            _ => false,
        };
        if fits {
            Ok(Self(text.to_string()))
        } else {
            let reason = format!("expected down.S.I, mid.I, up.S.I or NAME.I, got {text:?}");
            Err(Error::config("block", reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transformers_blocks_are_written_and_read_like_a_u_nets() {
        let double = BlockId::named("double", 0, 1).unwrap();
        let named =
            [double, BlockId::named("single", 0, 1).unwrap(), BlockId::named("blocks", 3, 4).unwrap()];
        assert_eq!(named.map(|block| block.name()), ["double.0", "single.0", "blocks.3"]);
        for name in ["double.0", "blocks.3", "sixteen-letters_.7", "down.1.0", "mid.0", "up.0.2"] {
            assert_eq!(name.parse::<BlockName>().unwrap().0, name);
        }
        for wrong in [
            "down.1",
            "mid.0.0",
            "up",
            "Double.0",
            "9.0",
            "seventeen-letters.0",
            "double.0.1",
            ".0",
            "a b.0",
            "control-down.1",
        ] {
            let error = wrong.parse::<BlockName>().unwrap_err().to_string();
            assert_eq!(error, format!("block: expected down.S.I, mid.I, up.S.I or NAME.I, got {wrong:?}"));
        }
        for name in ["mid", "", "Single", "seventeen-letters"] {
            assert!(BlockId::named(name, 0, 1).is_err(), "{name}");
        }
        assert!(!double.is_stage_edge());
        assert_eq!(serde_json::to_string(&double).unwrap(), "\"double.0\"");
    }

    /// A ControlNet's blocks are written like its U-Net's, and the early steps spare the same ones.
    #[test]
    fn a_control_nets_blocks_are_those_of_a_u_net() {
        let block = |stage, index| BlockId { stage, stage_index: 1, index, count: 2, level: 1 };
        let down = [0, 1].map(|index| block(Stage::ControlDown, index));
        assert_eq!(down.map(|block| block.name()), ["control-down.1.0", "control-down.1.1"]);
        assert_eq!(down.map(|block| block.is_stage_edge()), [true, false]);
        let mid = block(Stage::ControlMid, 0);
        assert_eq!((mid.name().as_str(), mid.is_stage_edge()), ("control-mid.0", false));
        for block in down.into_iter().chain([mid]) {
            assert_eq!(block.name().parse::<BlockName>().unwrap().0, block.name());
        }
        for name in ["control-down", "control-mid"] {
            assert!(BlockId::named(name, 0, 1).is_err(), "{name}");
        }
    }

    #[test]
    fn blocks_have_numbers_of_their_own() {
        let mut seen = std::collections::BTreeSet::new();
        for stage in [Stage::Down, Stage::Mid, Stage::Up, Stage::ControlDown, Stage::ControlMid] {
            let block = BlockId { stage, stage_index: 1, index: 0, count: 2, level: 0 };
            assert!(seen.insert(block.numbers()));
        }
        for name in ["double", "single", "blocks", "a", "b"] {
            assert!(seen.insert(BlockId::named(name, 0, 1).unwrap().numbers()));
        }
    }
}
