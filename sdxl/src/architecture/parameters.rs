//! Names and shapes of all parameters, as diffusers and transformers expect them.

use super::{Architecture, Vocabulary};
use crate::checkpoint::Part;

/// The role of a parameter, for code that initializes or trains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The `[outputs, inputs]` of a linear layer, or the `[outputs, inputs, height, width]` of a convolution.
    Weight,
    /// An additive term `[outputs]`; initially zero.
    Bias,
    /// The factors of a norm `[channels]`; initially one.
    Scale,
    /// A table of vectors, `[entries, channels]`.
    Embedding,
}

/// One tensor of a part's weight file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// The name in the file.
    pub name: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// The role.
    pub role: Role,
}

impl Parameter {
    /// Number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Architecture {
    /// All parameters of a part. This includes those that only diffusers requires: the first text encoder's last layer
    /// and norm.
    ///
    /// The sizes must have passed [`Architecture::check`].
    pub fn parameters(&self, vocabulary: &Vocabulary, part: Part) -> Vec<Parameter> {
        match part {
            Part::TextEncoder => self.text_parameters(0, vocabulary, None),
            Part::TextEncoder2 => self.text_parameters(1, vocabulary, Some(self.text.projection)),
            Part::UNet => self.unet_parameters(),
            Part::Vae => self.vae_parameters(),
        }
    }

    /// A CLIP text encoder; `projection` is the projection's width, if it has one.
    fn text_parameters(
        &self,
        which: usize,
        vocabulary: &Vocabulary,
        projection: Option<usize>,
    ) -> Vec<Parameter> {
        let channels = self.text.channels[which];
        let inner = self.text.expansion * channels;
        let mut list = List::default();
        for (name, entries) in [("token", vocabulary.len()), ("position", self.context)] {
            let name = format!("text_model.embeddings.{name}_embedding.weight");
            list.add(name, &[entries, channels], Role::Embedding);
        }
        for layer in 0..self.text.layers[which] {
            let at = format!("text_model.encoder.layers.{layer}");
            list.norm(&format!("{at}.layer_norm1"), channels);
            for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                list.linear(&format!("{at}.self_attn.{name}"), channels, channels);
            }
            list.norm(&format!("{at}.layer_norm2"), channels);
            list.linear(&format!("{at}.mlp.fc1"), inner, channels);
            list.linear(&format!("{at}.mlp.fc2"), channels, inner);
        }
        list.norm("text_model.final_layer_norm", channels);
        if let Some(width) = projection {
            list.weight("text_projection", &[width, channels]);
        }
        list.0
    }

    fn unet_parameters(&self) -> Vec<Parameter> {
        let unet = &self.unet;
        let latents = self.vae.latent_channels;
        let (first, deepest) = ends(&unet.channels);
        let time = 4 * first;
        let text = self.text_channels();
        let mut list = List::default();
        list.conv("conv_in", first, latents, 3);
        for (name, inputs) in [("time_embedding", first), ("add_embedding", self.added_channels())] {
            list.linear(&format!("{name}.linear_1"), time, inputs);
            list.linear(&format!("{name}.linear_2"), time, time);
        }
        // The skip connections of the way down: a stack of channel counts, popped on the way up.
        let mut skips = vec![first];
        let mut current = first;
        let levels: Vec<(usize, usize)> =
            unet.channels.iter().copied().zip(unet.depths.iter().copied()).collect();
        for (level, &(width, depth)) in levels.iter().enumerate() {
            let at = format!("down_blocks.{level}");
            for layer in 0..unet.layers {
                list.resnet(&format!("{at}.resnets.{layer}"), current, width, Some(time));
                list.transformer(&format!("{at}.attentions.{layer}"), width, text, depth);
                current = width;
                skips.push(current);
            }
            if level + 1 < levels.len() {
                list.conv(&format!("{at}.downsamplers.0.conv"), current, current, 3);
                skips.push(current);
            }
        }
        let depth = unet.depths.last().copied().unwrap_or(1);
        list.resnet("mid_block.resnets.0", deepest, deepest, Some(time));
        list.transformer("mid_block.attentions.0", deepest, text, depth);
        list.resnet("mid_block.resnets.1", deepest, deepest, Some(time));
        for (stage, (level, &(width, depth))) in levels.iter().enumerate().rev().enumerate() {
            let at = format!("up_blocks.{stage}");
            for layer in 0..=unet.layers {
                let skip = skips.pop().unwrap_or(first);
                list.resnet(&format!("{at}.resnets.{layer}"), current + skip, width, Some(time));
                list.transformer(&format!("{at}.attentions.{layer}"), width, text, depth);
                current = width;
            }
            if level > 0 {
                list.conv(&format!("{at}.upsamplers.0.conv"), current, current, 3);
            }
        }
        list.norm("conv_norm_out", first);
        list.conv("conv_out", latents, first, 3);
        list.0
    }

    /// The encoder and the decoder.
    fn vae_parameters(&self) -> Vec<Parameter> {
        let vae = &self.vae;
        let latents = vae.latent_channels;
        let (first, deepest) = ends(&vae.channels);
        let mut list = List::default();
        list.conv("encoder.conv_in", first, 3, 3);
        let mut current = first;
        for (level, &width) in vae.channels.iter().enumerate() {
            let at = format!("encoder.down_blocks.{level}");
            for layer in 0..vae.layers {
                list.resnet(&format!("{at}.resnets.{layer}"), current, width, None);
                current = width;
            }
            if level + 1 < vae.channels.len() {
                list.conv(&format!("{at}.downsamplers.0.conv"), width, width, 3);
            }
        }
        self.vae_middle(&mut list, "encoder", deepest);
        list.norm("encoder.conv_norm_out", deepest);
        list.conv("encoder.conv_out", 2 * latents, deepest, 3);
        list.conv("quant_conv", 2 * latents, 2 * latents, 1);
        list.conv("post_quant_conv", latents, latents, 1);
        list.conv("decoder.conv_in", deepest, latents, 3);
        self.vae_middle(&mut list, "decoder", deepest);
        current = deepest;
        for (stage, (level, &width)) in vae.channels.iter().enumerate().rev().enumerate() {
            let at = format!("decoder.up_blocks.{stage}");
            for layer in 0..=vae.layers {
                list.resnet(&format!("{at}.resnets.{layer}"), current, width, None);
                current = width;
            }
            if level > 0 {
                list.conv(&format!("{at}.upsamplers.0.conv"), width, width, 3);
            }
        }
        list.norm("decoder.conv_norm_out", first);
        list.conv("decoder.conv_out", 3, first, 3);
        list.0
    }

    fn vae_middle(&self, list: &mut List, side: &str, channels: usize) {
        list.resnet(&format!("{side}.mid_block.resnets.0"), channels, channels, None);
        if self.vae.mid_attention {
            let at = format!("{side}.mid_block.attentions.0");
            list.norm(&format!("{at}.group_norm"), channels);
            for name in ["to_q", "to_k", "to_v", "to_out.0"] {
                list.linear(&format!("{at}.{name}"), channels, channels);
            }
        }
        list.resnet(&format!("{side}.mid_block.resnets.1"), channels, channels, None);
    }
}

/// The channels of the first and the last level.
fn ends(channels: &[usize]) -> (usize, usize) {
    (channels.first().copied().unwrap_or(0), channels.last().copied().unwrap_or(0))
}

/// Parameters, in the order in which the parts are listed.
#[derive(Default)]
struct List(Vec<Parameter>);

impl List {
    fn add(&mut self, name: String, shape: &[usize], role: Role) {
        self.0.push(Parameter { name, shape: shape.to_vec(), role });
    }

    fn weight(&mut self, name: &str, shape: &[usize]) {
        self.add(format!("{name}.weight"), shape, Role::Weight);
    }

    fn bias(&mut self, name: &str, outputs: usize) {
        self.add(format!("{name}.bias"), &[outputs], Role::Bias);
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.weight(name, &[outputs, inputs]);
        self.bias(name, outputs);
    }

    fn conv(&mut self, name: &str, outputs: usize, inputs: usize, kernel: usize) {
        self.weight(name, &[outputs, inputs, kernel, kernel]);
        self.bias(name, outputs);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.add(format!("{name}.weight"), &[channels], Role::Scale);
        self.bias(name, channels);
    }

    /// A resnet block. `time` is the width of the time embedding, if the block takes one.
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

    fn attention(&mut self, name: &str, channels: usize, keys: usize) {
        self.weight(&format!("{name}.to_q"), &[channels, channels]);
        self.weight(&format!("{name}.to_k"), &[channels, keys]);
        self.weight(&format!("{name}.to_v"), &[channels, keys]);
        self.linear(&format!("{name}.to_out.0"), channels, channels);
    }

    /// An attention block of `depth` layers; nothing for depth 0.
    fn transformer(&mut self, name: &str, channels: usize, text: usize, depth: usize) {
        if depth == 0 {
            return;
        }
        self.norm(&format!("{name}.norm"), channels);
        self.linear(&format!("{name}.proj_in"), channels, channels);
        for layer in 0..depth {
            let at = format!("{name}.transformer_blocks.{layer}");
            self.norm(&format!("{at}.norm1"), channels);
            self.attention(&format!("{at}.attn1"), channels, channels);
            self.norm(&format!("{at}.norm2"), channels);
            self.attention(&format!("{at}.attn2"), channels, text);
            self.norm(&format!("{at}.norm3"), channels);
            self.linear(&format!("{at}.ff.net.0.proj"), 8 * channels, channels);
            self.linear(&format!("{at}.ff.net.2"), channels, 4 * channels);
        }
        self.linear(&format!("{name}.proj_out"), channels, channels);
    }
}
