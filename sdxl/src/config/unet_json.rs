//! Reads and writes `unet/config.json`.

use std::path::Path;

use atedm_core::{Error, Result};
use serde_json::{Value, json};

use super::limits::{self, at_most};
use super::unet::{DownStage, MidStage, UNetConfig, UpStage};
use super::{Fields, block_type};

const MID_ATTENTION: &str = "UNetMidBlock2DCrossAttn";
const MID_PLAIN: &str = "UNetMidBlock2D";

/// Keys that diffusers cannot read as `None`.
const NEVER_NULL: [&str; 22] = [
    "in_channels",
    "out_channels",
    "freq_shift",
    "down_block_types",
    "up_block_types",
    "only_cross_attention",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "mid_block_scale_factor",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "attention_head_dim",
    "addition_time_embed_dim",
    "resnet_time_scale_shift",
    "time_embedding_type",
    "conv_in_kernel",
    "conv_out_kernel",
    "projection_class_embeddings_input_dim",
];

/// Refuses values of these keys that change the result in ways not implemented here.
fn refuse_what_is_missing(fields: &Fields) -> Result<()> {
    fields.refuse_null(&NEVER_NULL)?;
    let no = json!(false);
    fields.expect("num_attention_heads", &[])?;
    fields.expect("addition_embed_type", &[json!("text_time")])?;
    fields.expect_activation(&["silu", "swish"])?;
    fields.expect("time_embedding_type", &[json!("positional")])?;
    fields.expect("attention_type", &[json!("default")])?;
    fields.expect("resnet_time_scale_shift", &[json!("default")])?;
    for flag in
        ["center_input_sample", "dual_cross_attention", "class_embeddings_concat", "resnet_skip_time_act"]
    {
        fields.expect(flag, std::slice::from_ref(&no))?;
    }
    for flag in ["only_cross_attention", "mid_block_only_cross_attention"] {
        if fields.get(flag).is_some_and(|value| value.to_string().contains("true")) {
            return Err(fields.error(flag, "true is not supported, expected false"));
        }
    }
    for absent in [
        "class_embed_type",
        "num_class_embeds",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "time_embedding_act_fn",
        "timestep_post_act",
        "cross_attention_norm",
    ] {
        fields.expect(absent, &[])?;
    }
    fields.expect("resnet_out_scale_factor", &[json!(1.0)])
}

impl UNetConfig {
    /// Reads `unet/config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Config`] naming the file and the field.
    pub fn read(file: &Path) -> Result<Self> {
        Self::from_fields(&Fields::read(file)?)
    }

    /// Parses a JSON object with diffusers' keys. `file` is used in messages.
    pub fn from_json(file: &Path, value: Value) -> Result<Self> {
        Self::from_fields(&Fields::new(file, value)?)
    }

    pub(super) fn from_fields(fields: &Fields) -> Result<Self> {
        refuse_what_is_missing(fields)?;
        if fields.get("addition_embed_type").is_none() {
            return Err(fields.error("addition_embed_type", "expected \"text_time\" (SD-XL), got null"));
        }
        let channels = fields.counts("block_out_channels")?.unwrap_or_else(|| vec![320, 640, 1280, 1280]);
        let stages = channels.len();
        if stages == 0 || stages > 16 {
            return Err(fields.error("block_out_channels", format!("expected 1 to 16 stages, got {stages}")));
        }
        at_most(fields, "block_out_channels", &channels, limits::CHANNELS)?;
        let layers = fields.per_stage("layers_per_block", stages, 2)?;
        at_most(fields, "layers_per_block", &layers, limits::LAYERS)?;
        // diffusers' misnomer: `attention_head_dim` holds the *number* of heads.
        let heads = fields.per_stage("attention_head_dim", stages, 8)?;
        let text_channels = fields.per_stage("cross_attention_dim", stages, 1280)?;
        let depths = fields.per_block("transformer_layers_per_block", &layers, 1)?;
        let up_layers: Vec<usize> = layers.iter().rev().map(|n| n + 1).collect();
        let up_depths = up_depths(fields, &depths, &up_layers)?;
        check_depths(fields, &depths, &up_depths)?;
        let down_kinds = kinds(fields, "down_block_types", stages, ["DownBlock2D", "CrossAttnDownBlock2D"])?;
        let up_kinds = kinds(fields, "up_block_types", stages, ["UpBlock2D", "CrossAttnUpBlock2D"])?;
        let last = stages - 1;

        let down = (0..stages).map(|i| DownStage {
            in_channels: channels[i.saturating_sub(1)],
            channels: channels[i],
            layers: layers[i],
            attention: down_kinds[i].then(|| depths[i].clone()),
            heads: heads[i],
            text_channels: text_channels[i],
            downsample: i != last,
        });
        let up = (0..stages).map(|i| UpStage {
            previous_channels: channels[last - i.saturating_sub(1)],
            skip_channels: channels[last.saturating_sub(i + 1)],
            channels: channels[last - i],
            layers: up_layers[i],
            attention: up_kinds[i].then(|| up_depths[i].clone()),
            heads: heads[last - i],
            text_channels: text_channels[last - i],
            upsample: i != last,
        });
        // An explicit null means that there is no middle. An absent key means the default type.
        let kind =
            if fields.names("mid_block_type") { fields.text("mid_block_type")? } else { Some(MID_ATTENTION) };
        let mid = match kind {
            Some(MID_ATTENTION) => Some(Some(depths[last].first().copied().unwrap_or(1))),
            Some(MID_PLAIN) => Some(None),
            None => None,
            Some(other) => {
                return Err(fields.error("mid_block_type", format!("{other:?} is not supported")));
            }
        };
        let mid = mid.map(|attention| MidStage {
            channels: channels[last],
            attention,
            heads: heads[last],
            text_channels: text_channels[last],
        });
        let config = Self {
            in_channels: fields.count("in_channels", 4)?,
            out_channels: fields.count("out_channels", 4)?,
            sample_size: sample_size(fields)?,
            down: down.collect(),
            mid,
            up: up.collect(),
            norm_groups: fields.count("norm_num_groups", 32)?,
            norm_epsilon: fields.positive("norm_eps", 1e-5)?,
            mid_scale: fields.positive("mid_block_scale_factor", 1.0)?,
            downsample_padding: fields.index("downsample_padding", 1)?,
            linear_projection: fields.flag("use_linear_projection", false)?,
            flip_sin_to_cos: fields.flag("flip_sin_to_cos", true)?,
            frequency_shift: fields.number("freq_shift", 0.0)?,
            time_channels: fields.count("time_embedding_dim", channels[0] * 4)?,
            size_channels: fields.required_count("addition_time_embed_dim")?,
            added_channels: fields.required_count("projection_class_embeddings_input_dim")?,
            guidance_channels: fields.optional_count("time_cond_proj_dim")?,
            conv_in_kernel: fields.count("conv_in_kernel", 3)?,
            conv_out_kernel: fields.count("conv_out_kernel", 3)?,
            control: None,
        };
        config.check(fields)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let text: Vec<usize> = self.down.iter().map(|stage| stage.text_channels).collect();
        for (name, channels) in [
            ("in_channels", &[self.in_channels][..]),
            ("out_channels", &[self.out_channels]),
            ("cross_attention_dim", &text),
            ("time_embedding_dim", &[self.time_channels]),
            ("addition_time_embed_dim", &[self.size_channels]),
            ("projection_class_embeddings_input_dim", &[self.added_channels]),
            ("time_cond_proj_dim", self.guidance_channels.as_slice()),
        ] {
            at_most(fields, name, channels, limits::CHANNELS)?;
        }
        for stage in &self.down {
            if !stage.channels.is_multiple_of(self.norm_groups) {
                let reason = format!("{} does not divide {} channels", self.norm_groups, stage.channels);
                return Err(fields.error("norm_num_groups", reason));
            }
            if stage.attention.is_some() && !stage.channels.is_multiple_of(stage.heads) {
                let reason = format!("{} heads do not divide {} channels", stage.heads, stage.channels);
                return Err(fields.error("attention_head_dim", reason));
            }
        }
        let mid = self.mid.as_ref().filter(|mid| mid.attention.is_some());
        if let Some(mid) = mid.filter(|mid| !mid.channels.is_multiple_of(mid.heads)) {
            let reason = format!("{} heads do not divide {} channels", mid.heads, mid.channels);
            return Err(fields.error("attention_head_dim", reason));
        }
        for up in &self.up {
            for layer in 0..up.layers {
                let channels = up.resnet_inputs(layer).joined();
                if !channels.is_multiple_of(self.norm_groups) {
                    let reason = format!("{} does not divide {channels} channels", self.norm_groups);
                    return Err(fields.error("norm_num_groups", reason));
                }
            }
        }
        if self.downsample_padding > 1 {
            return Err(fields.error("downsample_padding", "expected 0 or 1"));
        }
        let sinusoids = self.down.first().map_or(0, |stage| stage.channels);
        if !sinusoids.is_multiple_of(2) || sinusoids as f64 / 2.0 <= self.frequency_shift {
            return Err(fields.error("block_out_channels", "expected an even first entry"));
        }
        if !self.size_channels.is_multiple_of(2) || self.size_channels as f64 / 2.0 <= self.frequency_shift {
            return Err(fields.error("addition_time_embed_dim", "expected an even number"));
        }
        if self.added_channels <= 6 * self.size_channels {
            let reason = format!("expected more than 6 × {} (addition_time_embed_dim)", self.size_channels);
            return Err(fields.error("projection_class_embeddings_input_dim", reason));
        }
        for (name, kernel) in
            [("conv_in_kernel", self.conv_in_kernel), ("conv_out_kernel", self.conv_out_kernel)]
        {
            at_most(fields, name, &[kernel], limits::KERNEL)?;
            if kernel.is_multiple_of(2) {
                return Err(fields.error(name, format!("expected an odd number, got {kernel}")));
            }
        }
        Ok(())
    }

    /// The config in diffusers' format.
    pub fn to_json(&self) -> Value {
        let has =
            |attention: bool, with: &str, without: &str| if attention { with } else { without }.to_string();
        let down = |f: &dyn Fn(&DownStage) -> Value| self.down.iter().map(f).collect::<Vec<Value>>();
        // The middle takes its depth from the last stage's entry, even if that stage has no attention.
        let mid_depth = self.mid.as_ref().and_then(|mid| mid.attention).unwrap_or(1);
        let depth = |stage: &DownStage| match &stage.attention {
            Some(depths) => one_or_all(depths),
            None => json!(if stage.downsample { 1 } else { mid_depth }),
        };
        let up_depth = |stage: &UpStage| stage.attention.as_deref().map_or(json!(1), one_or_all);
        let down_depths = down(&depth);
        let up_depths: Vec<Value> = self.up.iter().map(up_depth).collect();
        let mirrored = down_depths.iter().rev().zip(&self.up).zip(&up_depths);
        let mirrored = mirrored.clone().all(|((down, stage), up)| stage.attention.is_none() || down == up)
            && !down_depths.iter().any(Value::is_array);
        let text: Vec<usize> = self.down.iter().map(|stage| stage.text_channels).collect();
        json!({
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": self.size_channels,
            "attention_head_dim": down(&|stage| json!(stage.heads)),
            "block_out_channels": down(&|stage| json!(stage.channels)),
            "conv_in_kernel": self.conv_in_kernel,
            "conv_out_kernel": self.conv_out_kernel,
            "cross_attention_dim": one_or_all(&text),
            "down_block_types": down(&|s| json!(has(s.attention.is_some(), "CrossAttnDownBlock2D", "DownBlock2D"))),
            "downsample_padding": self.downsample_padding,
            "flip_sin_to_cos": self.flip_sin_to_cos,
            "freq_shift": self.frequency_shift,
            "in_channels": self.in_channels,
            "layers_per_block": down(&|stage| json!(stage.layers)),
            "mid_block_scale_factor": self.mid_scale,
            "mid_block_type": self.mid.as_ref()
                .map(|mid| has(mid.attention.is_some(), MID_ATTENTION, MID_PLAIN)),
            "norm_eps": self.norm_epsilon,
            "norm_num_groups": self.norm_groups,
            "out_channels": self.out_channels,
            "projection_class_embeddings_input_dim": self.added_channels,
            "sample_size": self.sample_size,
            "time_cond_proj_dim": self.guidance_channels,
            "time_embedding_dim": self.time_channels,
            "reverse_transformer_layers_per_block": (!mirrored).then_some(up_depths),
            "transformer_layers_per_block": down_depths,
            "up_block_types": self.up.iter()
                .map(|s| has(s.attention.is_some(), "CrossAttnUpBlock2D", "UpBlock2D")).collect::<Vec<_>>(),
            "use_linear_projection": self.linear_projection,
        })
    }
}

/// A single number if all are equal, else the list.
fn one_or_all(values: &[usize]) -> Value {
    match values {
        [first, rest @ ..] if rest.iter().all(|v| v == first) => json!(first),
        _ => json!(values),
    }
}

/// Depths of the up path: those of the config if given, else the reversed depths of the down path.
fn up_depths(fields: &Fields, down: &[Vec<usize>], up_layers: &[usize]) -> Result<Vec<Vec<usize>>> {
    const OWN: &str = "reverse_transformer_layers_per_block";
    if fields.get(OWN).is_some() {
        return fields.per_block(OWN, up_layers, 1);
    }
    let nested = |value: &Value| value.as_array().is_some_and(|list| list.iter().any(Value::is_array));
    if fields.get("transformer_layers_per_block").is_some_and(nested) {
        return Err(fields.error(OWN, "must be given when transformer_layers_per_block is nested"));
    }
    let depths = down.iter().rev().zip(up_layers);
    Ok(depths.map(|(d, &layers)| vec![d.first().copied().unwrap_or(1); layers]).collect())
}

/// Refuses blocks that are too deep, and too many layers in total.
fn check_depths(fields: &Fields, down: &[Vec<usize>], up: &[Vec<usize>]) -> Result<()> {
    const NAME: &str = "transformer_layers_per_block";
    down.iter().chain(up).try_for_each(|depths| at_most(fields, NAME, depths, limits::DEPTH))?;
    let all: usize = down.iter().chain(up).flatten().sum();
    if all > limits::ALL_DEPTHS {
        let reason = format!("expected at most {} layers in all blocks, got {all}", limits::ALL_DEPTHS);
        return Err(fields.error(NAME, reason));
    }
    Ok(())
}

/// Whether each stage has attention, from the name of its type.
fn kinds(fields: &Fields, name: &str, stages: usize, [plain, attention]: [&str; 2]) -> Result<Vec<bool>> {
    let list = fields.texts(name)?.ok_or_else(|| fields.error(name, "missing"))?;
    if list.len() != stages {
        return Err(fields.error(name, format!("expected {stages} entries, got {}", list.len())));
    }
    let kind =
        |kind: &String| match block_type(kind) {
            k if k == plain => Ok(false),
            k if k == attention => Ok(true),
            other => Err(fields
                .error(name, format!("{other:?} is not supported, expected {plain:?} or {attention:?}"))),
        };
    list.iter().map(kind).collect()
}

/// `sample_size` may be a number or `[height, width]`. Only a square one gives a default size.
fn sample_size(fields: &Fields) -> Result<Option<usize>> {
    match fields.get("sample_size") {
        Some(Value::Array(_)) => {
            let sizes = fields.counts("sample_size")?.unwrap_or_default();
            if sizes.len() != 2 {
                return Err::<_, Error>(fields.error("sample_size", "expected one number, or two"));
            }
            Ok((sizes[0] == sizes[1]).then_some(sizes[0]))
        }
        _ => fields.optional_count("sample_size"),
    }
}
