//! Names and shapes of every parameter, as diffusers and transformers name them.

use super::config::{CONTEXT, LATENTS, LAYERS, Sizes, TEXT, TEXT_INNER, TEXT_LAYERS, TIME_IDS};

/// How a parameter is filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// All one value.
    Constant(f32),
    /// Uniform around zero.
    Random {
        /// Standard deviation.
        deviation: f32,
    },
}

/// One tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) fill: Fill,
}

/// A list of parameters below a prefix.
#[derive(Default)]
struct List(Vec<Parameter>);

impl List {
    fn add(&mut self, name: String, shape: &[usize], fill: Fill) {
        self.0.push(Parameter { name, shape: shape.to_vec(), fill });
    }

    /// A weight whose output has the size of its input, times `gain`.
    fn weight(&mut self, name: &str, shape: &[usize], gain: f32) {
        let inputs: usize = shape.iter().skip(1).product();
        let deviation = gain / (inputs.max(1) as f32).sqrt();
        self.add(format!("{name}.weight"), shape, Fill::Random { deviation });
    }

    fn bias(&mut self, name: &str, outputs: usize) {
        self.add(format!("{name}.bias"), &[outputs], Fill::Constant(0.0));
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.weight(name, &[outputs, inputs], 1.0);
        self.bias(name, outputs);
    }

    fn conv(&mut self, name: &str, outputs: usize, inputs: usize, kernel: usize) {
        self.weight(name, &[outputs, inputs, kernel, kernel], 1.0);
        self.bias(name, outputs);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.add(format!("{name}.weight"), &[channels], Fill::Constant(1.0));
        self.bias(name, channels);
    }

    /// A resnet block; `time` is the width of the time embedding, if it takes one.
    fn resnet(&mut self, name: &str, inputs: usize, outputs: usize, time: Option<usize>) {
        self.norm(&format!("{name}.norm1"), inputs);
        self.conv(&format!("{name}.conv1"), outputs, inputs, 3);
        if let Some(time) = time {
            self.linear(&format!("{name}.time_emb_proj"), outputs, time);
        }
        self.norm(&format!("{name}.norm2"), outputs);
        self.conv(&format!("{name}.conv2"), outputs, outputs, 3);
        if inputs != outputs {
            self.conv(&format!("{name}.conv_shortcut"), outputs, inputs, 1);
        }
    }

    /// One attention layer. Queries and keys are large, so that the maps of random weights are not flat.
    fn attention(&mut self, name: &str, channels: usize, keys: usize) {
        self.weight(&format!("{name}.to_q"), &[channels, channels], 1.8);
        self.weight(&format!("{name}.to_k"), &[channels, keys], 1.8);
        self.weight(&format!("{name}.to_v"), &[channels, keys], 1.0);
        self.linear(&format!("{name}.to_out.0"), channels, channels);
    }

    fn transformer(&mut self, name: &str, channels: usize, depth: usize) {
        self.norm(&format!("{name}.norm"), channels);
        self.linear(&format!("{name}.proj_in"), channels, channels);
        for layer in 0..depth {
            let at = format!("{name}.transformer_blocks.{layer}");
            self.norm(&format!("{at}.norm1"), channels);
            self.attention(&format!("{at}.attn1"), channels, channels);
            self.norm(&format!("{at}.norm2"), channels);
            self.attention(&format!("{at}.attn2"), channels, 2 * TEXT);
            self.norm(&format!("{at}.norm3"), channels);
            self.linear(&format!("{at}.ff.net.0.proj"), 8 * channels, channels);
            self.linear(&format!("{at}.ff.net.2"), channels, 4 * channels);
        }
        self.linear(&format!("{name}.proj_out"), channels, channels);
    }
}

/// The U-Net.
pub(super) fn unet(sizes: &Sizes) -> Vec<Parameter> {
    let channels = sizes.channels;
    let [first, .., deepest] = channels;
    let time = 4 * first;
    let mut list = List::default();
    list.conv("conv_in", first, LATENTS, 3);
    for (name, inputs) in [("time_embedding", first), ("add_embedding", TEXT + 6 * TIME_IDS)] {
        list.linear(&format!("{name}.linear_1"), time, inputs);
        list.linear(&format!("{name}.linear_2"), time, time);
    }
    // What the way down leaves for the way up: a stack of channel counts.
    let mut skips = vec![first];
    let mut current = first;
    for (level, &width) in channels.iter().enumerate() {
        let at = format!("down_blocks.{level}");
        for layer in 0..LAYERS {
            list.resnet(&format!("{at}.resnets.{layer}"), current, width, Some(time));
            if level > 0 {
                list.transformer(&format!("{at}.attentions.{layer}"), width, sizes.depths[level]);
            }
            current = width;
            skips.push(current);
        }
        if level + 1 < channels.len() {
            list.conv(&format!("{at}.downsamplers.0.conv"), current, current, 3);
            skips.push(current);
        }
    }
    list.resnet("mid_block.resnets.0", deepest, deepest, Some(time));
    list.transformer("mid_block.attentions.0", deepest, sizes.depths[2]);
    list.resnet("mid_block.resnets.1", deepest, deepest, Some(time));
    for (stage, (level, &width)) in channels.iter().enumerate().rev().enumerate() {
        let at = format!("up_blocks.{stage}");
        for layer in 0..=LAYERS {
            let skip = skips.pop().unwrap_or(first);
            list.resnet(&format!("{at}.resnets.{layer}"), current + skip, width, Some(time));
            if level > 0 {
                list.transformer(&format!("{at}.attentions.{layer}"), width, sizes.depths[level]);
            }
            current = width;
        }
        if level > 0 {
            list.conv(&format!("{at}.upsamplers.0.conv"), current, current, 3);
        }
    }
    list.norm("conv_norm_out", first);
    list.conv("conv_out", LATENTS, first, 3);
    list.0
}

/// The autoencoder, encoder included: diffusers wants it whole.
pub(super) fn vae(sizes: &Sizes) -> Vec<Parameter> {
    let channels = sizes.vae_channels;
    let [first, .., deepest] = channels;
    let mut list = List::default();
    list.conv("encoder.conv_in", first, 3, 3);
    let mut current = first;
    for (level, &width) in channels.iter().enumerate() {
        list.resnet(&format!("encoder.down_blocks.{level}.resnets.0"), current, width, None);
        current = width;
        if level + 1 < channels.len() {
            list.conv(&format!("encoder.down_blocks.{level}.downsamplers.0.conv"), width, width, 3);
        }
    }
    vae_middle(&mut list, "encoder", deepest);
    list.norm("encoder.conv_norm_out", deepest);
    list.conv("encoder.conv_out", 2 * LATENTS, deepest, 3);
    list.conv("quant_conv", 2 * LATENTS, 2 * LATENTS, 1);
    list.conv("post_quant_conv", LATENTS, LATENTS, 1);
    list.conv("decoder.conv_in", deepest, LATENTS, 3);
    vae_middle(&mut list, "decoder", deepest);
    current = deepest;
    for (stage, (level, &width)) in channels.iter().enumerate().rev().enumerate() {
        for layer in 0..2 {
            list.resnet(&format!("decoder.up_blocks.{stage}.resnets.{layer}"), current, width, None);
            current = width;
        }
        if level > 0 {
            list.conv(&format!("decoder.up_blocks.{stage}.upsamplers.0.conv"), width, width, 3);
        }
    }
    list.norm("decoder.conv_norm_out", first);
    list.conv("decoder.conv_out", 3, first, 3);
    list.0
}

fn vae_middle(list: &mut List, side: &str, channels: usize) {
    list.resnet(&format!("{side}.mid_block.resnets.0"), channels, channels, None);
    let at = format!("{side}.mid_block.attentions.0");
    list.norm(&format!("{at}.group_norm"), channels);
    for name in ["to_q", "to_k", "to_v", "to_out.0"] {
        list.linear(&format!("{at}.{name}"), channels, channels);
    }
    list.resnet(&format!("{side}.mid_block.resnets.1"), channels, channels, None);
}

/// A CLIP text encoder, with a projection of that width if it has one.
pub(super) fn text_encoder(sizes: &Sizes, projection: Option<usize>) -> Vec<Parameter> {
    let mut list = List::default();
    let table = |count: usize| [count, TEXT];
    let spread = Fill::Random { deviation: 0.3 };
    list.add("text_model.embeddings.token_embedding.weight".into(), &table(sizes.vocabulary), spread);
    list.add("text_model.embeddings.position_embedding.weight".into(), &table(CONTEXT), spread);
    for layer in 0..TEXT_LAYERS {
        let at = format!("text_model.encoder.layers.{layer}");
        list.norm(&format!("{at}.layer_norm1"), TEXT);
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.linear(&format!("{at}.self_attn.{name}"), TEXT, TEXT);
        }
        list.norm(&format!("{at}.layer_norm2"), TEXT);
        list.linear(&format!("{at}.mlp.fc1"), TEXT_INNER, TEXT);
        list.linear(&format!("{at}.mlp.fc2"), TEXT, TEXT_INNER);
    }
    list.norm("text_model.final_layer_norm", TEXT);
    if let Some(width) = projection {
        list.weight("text_projection", &[width, TEXT], 1.0);
    }
    list.0
}
