//! The cost of everything but attention blocks: convolutions, and the projection of the time in each resnet.

use atedm_core::plugin::{Grid, NestId};

use super::cost::{Macs, UNetCost, product};
use crate::config::{ControlNetConfig, Nesting, UNetConfig};

/// Formulas for one U-Net at one size.
pub(super) struct Convolutions<'a> {
    config: &'a UNetConfig,
    /// Pixels of each level.
    pixels: Vec<u64>,
}

impl<'a> Convolutions<'a> {
    pub(super) fn new(config: &'a UNetConfig, grid: Grid) -> Self {
        let grids = config.grids(grid.height, grid.width);
        Self { config, pixels: grids.iter().map(|level| level.tokens() as u64).collect() }
    }

    /// A convolution whose output has this level.
    pub(super) fn convolution(&self, level: usize, from: usize, to: usize, kernel: usize) -> Macs {
        let convolutions = product(&[self.pixels[level], (from * to * kernel * kernel) as u64]);
        Macs { convolutions, ..Macs::default() }
    }

    /// A 1×1 convolution.
    fn pointwise(&self, level: usize, from: usize, to: usize) -> Macs {
        Macs { shortcuts: product(&[self.pixels[level], (from * to) as u64]), ..Macs::default() }
    }

    pub(super) fn resnet(&self, level: usize, from: usize, to: usize) -> Macs {
        let shortcut = if from == to { Macs::default() } else { self.pointwise(level, from, to) };
        Macs {
            convolutions: product(&[self.pixels[level], 9, (from * to + to * to) as u64]),
            embeddings: self.config.time_channels as u64 * to as u64,
            ..shortcut
        }
    }

    /// The embeddings of time, guidance, sizes and pooled text.
    pub(super) fn embeddings(&self) -> Macs {
        let config = self.config;
        let (time, base) = (config.time_channels as u64, config.base_channels() as u64);
        let guidance = config.guidance_channels.unwrap_or(0) as u64;
        let added = config.added_channels as u64;
        let embeddings = guidance * base + base * time + time * time + added * time + time * time;
        Macs { embeddings, ..Macs::default() }
    }

    /// Tallies the first convolution, the way down and the middle. `prefix` begins the parts' names. `in_nest` gives the cost of
    /// a part in its nest.
    pub(super) fn first_half(
        &self,
        prefix: &str,
        cost: &mut UNetCost,
        in_nest: &dyn Fn(NestId, Macs) -> Macs,
    ) {
        let (config, nesting) = (self.config, Nesting::of(self.config));
        cost.tally(format!("{prefix}embeddings"), &in_nest(NestId::EVALUATION, self.embeddings()));
        let conv_in = self.convolution(0, config.in_channels, config.base_channels(), config.conv_in_kernel);
        cost.tally(format!("{prefix}conv_in"), &in_nest(NestId::EVALUATION, conv_in));
        for (i, stage) in config.down.iter().enumerate() {
            let name = format!("{prefix}down.{i}.conv");
            for layer in 0..stage.layers {
                let from = if layer == 0 { stage.in_channels } else { stage.channels };
                let macs = self.resnet(i, from, stage.channels);
                cost.tally(name.clone(), &in_nest(nesting.down(i, layer), macs));
            }
            if stage.downsample {
                let macs = self.convolution(i + 1, stage.channels, stage.channels, 3);
                cost.tally(name, &in_nest(nesting.down(i, stage.layers), macs));
            }
        }
        let last = config.down.len().saturating_sub(1);
        if let Some(mid) = &config.mid {
            let resnets = 1 + usize::from(mid.attention.is_some());
            let macs = in_nest(nesting.mid(), self.resnet(last, mid.channels, mid.channels));
            (0..resnets).for_each(|_| cost.tally(format!("{prefix}mid.conv"), &macs));
        }
    }
}

/// Tallies a ControlNet's convolutions, those of its outputs included.
pub(super) fn control_net(
    config: &ControlNetConfig,
    grid: Grid,
    cost: &mut UNetCost,
    in_nest: &dyn Fn(NestId, Macs) -> Macs,
) {
    let half = &config.half;
    let (convolutions, nesting) = (Convolutions::new(half, grid), Nesting::of(half));
    convolutions.first_half("control-", cost, in_nest);
    let mut output = |nest: NestId, level: usize, channels: usize| {
        let macs = convolutions.pointwise(level, channels, channels);
        cost.tally("control-outputs".into(), &in_nest(nest, macs));
    };
    output(NestId::EVALUATION, 0, half.base_channels());
    for (i, stage) in half.down.iter().enumerate() {
        for layer in 0..stage.layers + usize::from(stage.downsample) {
            output(nesting.down(i, layer), i + usize::from(layer == stage.layers), stage.channels);
        }
    }
    let last = half.down.len().saturating_sub(1);
    if let Some(mid) = &half.mid {
        output(nesting.mid(), last, mid.channels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flops::full;

    /// torch's `FlopCounterMode` on diffusers' ControlNetModel with the configuration of controlnet-canny-sdxl-1.0, without the
    /// embedding of the picture.
    #[test]
    fn sdxls_control_net_costs_what_torch_counts() {
        let alone = UNetConfig::sdxl_base();
        let half = UNetConfig { up: Vec::new(), ..alone.clone() };
        let control = ControlNetConfig { half, picture_channels: vec![16, 32, 96, 256] };
        let both = UNetConfig { control: Some(Box::new(control)), ..alone.clone() };
        let cost = |config: &UNetConfig| full(config, Grid::new(128, 128), 77).unwrap();
        let (both, alone) = (cost(&both), cost(&alone));
        assert_eq!(2 * (both.sum().total() - alone.sum().total()), 2_961_494_343_680);
        for part in &alone.parts {
            assert_eq!(both.part(&part.name), Some(&part.macs), "{}", part.name);
            let copy = both.part(&format!("control-{}", part.name));
            let is_copied = !part.name.starts_with("up.") && part.name != "conv_out";
            assert_eq!(copy, is_copied.then_some(&part.macs), "{}", part.name);
        }
    }
}
