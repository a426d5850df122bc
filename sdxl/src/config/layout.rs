//! The layout of the U-Net at one size: grids, attention blocks, and the nests that hold them.

use std::ops::Range;

use atedm_core::plugin::{BlockId, Grid, NestId, Stage};

use super::unet::{DownStage, MidStage, UNetConfig, UpStage};

/// One attention block of [`UNetConfig::blocks`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// The block's id.
    pub id: BlockId,
    /// Channels.
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Transformer layers.
    pub depth: usize,
    /// Channels of the text tokens.
    pub text_channels: usize,
    /// The grid of the block's tokens.
    pub grid: Grid,
    /// The innermost nest that holds the block.
    pub nest: NestId,
}

/// One nest of [`UNetConfig::nests`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NestInfo {
    /// The nest's id.
    pub id: NestId,
    /// The range of its attention blocks in [`UNetConfig::blocks`].
    pub blocks: Range<usize>,
    /// Channels of its output.
    pub channels: usize,
    /// Height and width of its output.
    pub grid: Grid,
}

/// The nests of the steps down and up. Step d down gives skip connection d. That step, and the step up that takes the
/// connection, are in nest d.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nesting<'a> {
    config: &'a UNetConfig,
}

impl<'a> Nesting<'a> {
    pub(crate) fn of(config: &'a UNetConfig) -> Self {
        Self { config }
    }

    /// Steps down in the stages before this one, the first convolution included.
    fn down_steps(&self, stage: usize) -> usize {
        let before = self.config.down.iter().take(stage);
        1 + before.map(|stage| stage.layers + usize::from(stage.downsample)).sum::<usize>()
    }

    /// The nest of a layer on the way down. If `layer` is the stage's number of layers, the nest of its strided
    /// convolution.
    pub(crate) fn down(&self, stage: usize, layer: usize) -> NestId {
        NestId(self.down_steps(stage) + layer)
    }

    /// The nest of the middle: the innermost one.
    pub(crate) fn mid(&self) -> NestId {
        NestId(self.down_steps(self.config.down.len()))
    }

    /// The nest of a layer on the way up. A stage's resize is in the nest of its last layer.
    pub(crate) fn up(&self, stage: usize, layer: usize) -> NestId {
        let before: usize = self.config.up.iter().take(stage).map(|stage| stage.layers).sum();
        NestId(self.mid().0.saturating_sub(before + layer + 1))
    }
}

/// Sizes that all attention blocks of a stage share.
struct BlockSizes {
    channels: usize,
    heads: usize,
    text_channels: usize,
}

/// The nest of a stage's layer.
type NestOf<'a> = &'a dyn Fn(usize) -> NestId;

impl UNetConfig {
    /// The grid of each resolution level for latents of `height` × `width`. Level 0 is the latents' own grid.
    pub fn grids(&self, height: usize, width: usize) -> Vec<Grid> {
        let half = |n: usize| if self.downsample_padding == 1 { n.div_ceil(2) } else { n / 2 };
        let next = |grid: &Grid| Some(Grid::new(half(grid.height), half(grid.width)));
        std::iter::successors(Some(Grid::new(height, width)), next).take(self.down.len()).collect()
    }

    /// Every attention block for latents of `height` × `width`, in the order of a forward pass. A ControlNet's block follows the
    /// U-Net's block whose copy it is.
    ///
    /// Blocks without transformer layers are left out, because nothing in them can be pruned.
    pub fn blocks(&self, height: usize, width: usize) -> Vec<BlockInfo> {
        let mut blocks = self.own_blocks(height, width);
        let beside = self.control.as_ref().map(|control| control.blocks(height, width));
        for block in beside.unwrap_or_default() {
            let before = |other: &BlockInfo| other.id.stage != Stage::Up && other.nest <= block.nest;
            let place = blocks.iter().rposition(before).map_or(0, |last| last + 1);
            blocks.insert(place, block);
        }
        blocks
    }

    /// The blocks of the U-Net alone.
    fn own_blocks(&self, height: usize, width: usize) -> Vec<BlockInfo> {
        let grids = self.grids(height, width);
        let mut blocks = Vec::new();
        let nesting = Nesting::of(self);
        let mut push =
            |stage, stage_index, level: usize, depths: &[usize], shape: BlockSizes, nest: NestOf<'_>| {
                let BlockSizes { channels, heads, text_channels } = shape;
                for (index, &depth) in depths.iter().enumerate().filter(|(_, depth)| **depth > 0) {
                    let id = BlockId { stage, stage_index, index, count: depths.len(), level };
                    let (grid, nest) = (grids[level], nest(index));
                    blocks.push(BlockInfo { id, channels, heads, depth, text_channels, grid, nest });
                }
            };
        for (i, stage) in self.down.iter().enumerate() {
            let DownStage { channels, heads, text_channels, .. } = *stage;
            let depths = stage.attention.as_deref().unwrap_or_default();
            let sizes = BlockSizes { channels, heads, text_channels };
            push(Stage::Down, i, i, depths, sizes, &|layer| nesting.down(i, layer));
        }
        let last = self.down.len().saturating_sub(1);
        if let Some(mid) = &self.mid {
            let MidStage { channels, heads, text_channels, .. } = *mid;
            let sizes = BlockSizes { channels, heads, text_channels };
            push(Stage::Mid, 0, last, mid.attention.as_slice(), sizes, &|_| nesting.mid());
        }
        for (i, stage) in self.up.iter().enumerate() {
            let UpStage { channels, heads, text_channels, .. } = *stage;
            let depths = stage.attention.as_deref().unwrap_or_default();
            let sizes = BlockSizes { channels, heads, text_channels };
            push(Stage::Up, i, last - i, depths, sizes, &|layer| nesting.up(i, layer));
        }
        blocks
    }

    /// Every nest for latents of `height` × `width`, outermost first.
    pub fn nests(&self, height: usize, width: usize) -> Vec<NestInfo> {
        let nesting = Nesting::of(self);
        let (grids, blocks) = (self.grids(height, width), self.blocks(height, width));
        let innermost = nesting.mid();
        let grid = |level: usize| grids.get(level).copied().unwrap_or(Grid::new(0, 0));
        // the output of nest d is the input of the step up in nest d - 1
        let mut outputs = vec![(self.out_channels, grid(0)); innermost.0 + 1];
        for (i, stage) in self.up.iter().enumerate() {
            let level = self.down.len().saturating_sub(i + 1);
            for layer in 0..stage.layers {
                let stream = stage.resnet_inputs(layer).stream;
                if let Some(output) = outputs.get_mut(nesting.up(i, layer).0 + 1) {
                    *output = (stream, grid(level));
                }
            }
        }
        let nest = |(number, (channels, grid)): (usize, (usize, Grid))| {
            let id = NestId(number);
            let inside = |block: &BlockInfo| id.contains(block.nest);
            let start = blocks.iter().position(inside).unwrap_or(blocks.len());
            let end = blocks.iter().rposition(inside).map_or(start, |last| last + 1);
            NestInfo { id, blocks: start..end, channels, grid }
        };
        outputs.into_iter().enumerate().map(nest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::unet::ControlNetConfig;
    use super::*;

    /// Nest b + 1 is the part that DeepCache's branch b leaves out: SD-XL has branches 0 to 8.
    #[test]
    fn nests_of_sdxl() {
        let config = UNetConfig::sdxl_base();
        let (nests, blocks) = (config.nests(128, 128), config.blocks(128, 128));
        let names = |nest: &NestInfo| {
            let ends = [nest.blocks.start, nest.blocks.end.saturating_sub(1)];
            ends.map(|end| blocks[end].id.name()).join(" to ")
        };
        let of = |nest: &NestInfo| {
            format!("{}: {} of {}x{}", names(nest), nest.channels, nest.grid.height, nest.grid.width)
        };
        let expected = [
            // the whole evaluation
            "down.1.0 to up.1.2: 4 of 128x128",
            // after the first convolution, both resnets of stage 0, and its strided convolution
            "down.1.0 to up.1.2: 320 of 128x128",
            "down.1.0 to up.1.2: 320 of 128x128",
            "down.1.0 to up.1.2: 640 of 128x128",
            "down.1.0 to up.1.1: 640 of 64x64",
            // after down.1.0, down.1.1, and the strided convolution
            "down.1.1 to up.1.0: 640 of 64x64",
            "down.2.0 to up.0.2: 1280 of 64x64",
            "down.2.0 to up.0.1: 1280 of 32x32",
            "down.2.1 to up.0.0: 1280 of 32x32",
            "mid.0 to mid.0: 1280 of 32x32",
        ];
        assert_eq!(nests.iter().map(of).collect::<Vec<_>>(), expected);
        assert!(nests.iter().enumerate().all(|(number, nest)| nest.id == NestId(number)));
    }

    /// Each block of a ControlNet follows the one whose copy it is, and lies in the same nests.
    #[test]
    fn a_control_nets_blocks_lie_beside_the_u_nets() {
        let mut config = UNetConfig::sdxl_base();
        let mut half = UNetConfig { up: Vec::new(), ..config.clone() };
        // one without attention at level 1
        half.down[1].attention = None;
        config.control = Some(Box::new(ControlNetConfig { half, picture_channels: vec![16, 32, 96, 256] }));
        let (nests, blocks) = (config.nests(128, 128), config.blocks(128, 128));
        let names: Vec<String> = blocks.iter().map(|block| block.id.name()).collect();
        let expected = [
            "down.1.0",
            "down.1.1",
            "down.2.0",
            "control-down.2.0",
            "down.2.1",
            "control-down.2.1",
            "mid.0",
            "control-mid.0",
            "up.0.0",
            "up.0.1",
            "up.0.2",
            "up.1.0",
            "up.1.1",
            "up.1.2",
        ];
        assert_eq!(names, expected);
        for nest in &nests {
            let inside = |block: &BlockInfo| nest.id.contains(block.nest);
            let within: Vec<usize> = (0..blocks.len()).filter(|at| inside(&blocks[*at])).collect();
            assert_eq!(within, nest.blocks.clone().collect::<Vec<_>>(), "{:?}", nest.id);
        }
        assert_eq!((blocks[3].id.level, blocks[3].grid, blocks[3].depth), (2, Grid::new(32, 32), 10));
        assert_eq!(config.alone().blocks(128, 128).len(), 11);
    }
}
