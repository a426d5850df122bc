//! The number of parameters of a U-Net, computed by formula.

use super::UNetConfig;

impl UNetConfig {
    /// The total number of parameters: 2,567,463,684 for SD-XL base.
    pub fn parameters(&self) -> u64 {
        let base = self.base_channels();
        let time = self.time_channels;
        let embeddings = linear(base, time)
            + linear(time, time)
            + linear(self.added_channels, time)
            + linear(time, time)
            + self.guidance_channels.map_or(0, |channels| (channels * base) as u64);
        let ends = conv(self.in_channels, base, self.conv_in_kernel)
            + conv(base, self.out_channels, self.conv_out_kernel)
            + norm(base);
        let resnet = |inputs: usize, outputs: usize| {
            let shortcut = if inputs == outputs { 0 } else { conv(inputs, outputs, 1) };
            norm(inputs)
                + conv(inputs, outputs, 3)
                + linear(time, outputs)
                + norm(outputs)
                + conv(outputs, outputs, 3)
                + shortcut
        };
        let down = self.down.iter().map(|stage| {
            let inputs = |layer: usize| if layer == 0 { stage.in_channels } else { stage.channels };
            let resnets: u64 = (0..stage.layers).map(|layer| resnet(inputs(layer), stage.channels)).sum();
            let depths = stage.attention.as_deref().unwrap_or_default();
            let halving = if stage.downsample { conv(stage.channels, stage.channels, 3) } else { 0 };
            resnets + attention(depths, stage.channels, stage.text_channels) + halving
        });
        let mid = self.mid.as_ref().map_or(0, |mid| {
            let resnets = if mid.attention.is_some() { 2 } else { 1 };
            resnets * resnet(mid.channels, mid.channels)
                + attention(mid.attention.as_slice(), mid.channels, mid.text_channels)
        });
        let up = self.up.iter().map(|stage| {
            let of = |layer: usize| resnet(stage.resnet_inputs(layer).joined(), stage.channels);
            let resnets: u64 = (0..stage.layers).map(of).sum();
            let depths = stage.attention.as_deref().unwrap_or_default();
            let doubling = if stage.upsample { conv(stage.channels, stage.channels, 3) } else { 0 };
            resnets + attention(depths, stage.channels, stage.text_channels) + doubling
        });
        embeddings + ends + down.sum::<u64>() + mid + up.sum::<u64>()
    }
}

fn linear(inputs: usize, outputs: usize) -> u64 {
    (inputs * outputs + outputs) as u64
}

fn conv(inputs: usize, outputs: usize, kernel: usize) -> u64 {
    (inputs * outputs * kernel * kernel + outputs) as u64
}

fn norm(channels: usize) -> u64 {
    2 * channels as u64
}

/// Parameters of attention blocks of these depths: norm, `proj_in`, layers, `proj_out`.
fn attention(depths: &[usize], channels: usize, text: usize) -> u64 {
    let c = channels as u64;
    let projections = |context: u64| c * c + 2 * context * c + linear(channels, channels);
    let feed_forward = linear(channels, 8 * channels) + linear(4 * channels, channels);
    let layer = 3 * norm(channels) + projections(c) + projections(text as u64) + feed_forward;
    depths.iter().map(|&depth| norm(channels) + 2 * linear(channels, channels) + depth as u64 * layer).sum()
}
