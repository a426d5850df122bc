use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// The relevant keys of `unet/config.json` of SD-XL base 1.0.
fn sdxl_json() -> Value {
    const TEXT: &str = r#"{
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.19.0.dev0", "act_fn": "silu",
        "addition_embed_type": "text_time", "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "center_input_sample": false,
        "class_embed_type": null, "class_embeddings_concat": false, "conv_in_kernel": 3, "conv_out_kernel": 3,
        "cross_attention_dim": 2048, "cross_attention_norm": null,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1, "dual_cross_attention": false, "encoder_hid_dim": null, "encoder_hid_dim_type": null,
        "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
        "mid_block_only_cross_attention": null, "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32,
        "num_attention_heads": null, "num_class_embeds": null, "only_cross_attention": false, "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816, "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": false,
        "resnet_time_scale_shift": "default", "sample_size": 128, "time_cond_proj_dim": null,
        "time_embedding_act_fn": null, "time_embedding_dim": null, "time_embedding_type": "positional",
        "timestep_post_act": null, "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "upcast_attention": null,
        "use_linear_projection": true
    }"#;
    serde_json::from_str(TEXT).unwrap()
}

fn unet(value: Value) -> atedm_core::Result<UNetConfig> {
    UNetConfig::from_json(Path::new("unet/config.json"), value)
}

fn with(key: &str, value: Value) -> Value {
    let mut json = sdxl_json();
    json[key] = value;
    json
}

#[test]
fn sdxl_base_is_what_its_config_says() {
    let config = unet(sdxl_json()).unwrap();
    assert_eq!(config, UNetConfig::sdxl_base());
    assert_eq!(config.parameters(), 2_567_463_684);
    assert_eq!(config.pooled_channels(), 1280);
    assert_eq!(unet(config.to_json()).unwrap(), config);
}

#[test]
fn sdxl_base_has_eleven_attention_blocks() {
    let blocks = UNetConfig::sdxl_base().blocks(128, 128);
    let rows: Vec<(String, usize, usize, usize, usize)> =
        blocks.iter().map(|b| (b.id.name(), b.channels, b.heads, b.depth, b.grid.tokens())).collect();
    let row = |name: &str, level: usize| match level {
        1 => (name.to_string(), 640, 10, 2, 4096),
        _ => (name.to_string(), 1280, 20, 10, 1024),
    };
    let expected = [
        row("down.1.0", 1),
        row("down.1.1", 1),
        row("down.2.0", 2),
        row("down.2.1", 2),
        row("mid.0", 2),
        row("up.0.0", 2),
        row("up.0.1", 2),
        row("up.0.2", 2),
        row("up.1.0", 1),
        row("up.1.1", 1),
        row("up.1.2", 1),
    ];
    assert_eq!(rows, expected);
    let edges: Vec<String> = blocks.iter().filter(|b| b.id.is_stage_edge()).map(|b| b.id.name()).collect();
    assert_eq!(edges, ["down.1.0", "down.2.0", "up.0.2", "up.1.2"]);
}

#[test]
fn odd_sizes_round_up_at_each_level() {
    let sizes = |config: &UNetConfig| -> Vec<(usize, usize)> {
        config.grids(13, 22).iter().map(|grid| (grid.height, grid.width)).collect()
    };
    let mut config = UNetConfig::sdxl_base();
    assert_eq!(sizes(&config), [(13, 22), (7, 11), (4, 6)]);
    config.downsample_padding = 0;
    assert_eq!(sizes(&config), [(13, 22), (6, 11), (3, 5)]);
}

#[test]
fn depths_may_be_nested() {
    let mut json = with("transformer_layers_per_block", json!([1, [2, 3], [4, 4]]));
    json["reverse_transformer_layers_per_block"] = json!([[4, 4, 10], [2, 1, 1], 1]);
    let config = unet(json.clone()).unwrap();
    assert_eq!(config.down[1].attention, Some(vec![2, 3]));
    assert_eq!(config.up[0].attention, Some(vec![4, 4, 10]));
    assert_eq!(config.up[1].attention, Some(vec![2, 1, 1]));
    assert_eq!(config.mid.as_ref().unwrap().attention, Some(4));
    assert_eq!(unet(config.to_json()).unwrap(), config);

    json["reverse_transformer_layers_per_block"] = json!(null);
    let error = unet(json).unwrap_err().to_string();
    assert!(error.contains("reverse_transformer_layers_per_block: must be given"), "{error}");
}

#[test]
fn the_middle_may_be_plain_or_absent() {
    let plain = unet(with("mid_block_type", json!("UNetMidBlock2D"))).unwrap();
    assert_eq!(plain.mid.as_ref().unwrap().attention, None);
    assert_eq!(unet(plain.to_json()).unwrap(), plain);
    let none = unet(with("mid_block_type", json!(null))).unwrap();
    assert_eq!(none.mid, None);
    assert_eq!(unet(none.to_json()).unwrap(), none);
    let mut absent = sdxl_json();
    absent.as_object_mut().unwrap().remove("mid_block_type");
    assert_eq!(unet(absent).unwrap(), UNetConfig::sdxl_base());
}

#[test]
fn unknown_keys_are_ignored() {
    assert_eq!(unet(with("some_key_of_next_year", json!([1, "x"]))).unwrap(), UNetConfig::sdxl_base());
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let cases = [
        ("num_attention_heads", json!(8)),
        ("addition_embed_type", json!("text")),
        ("addition_embed_type", json!(null)),
        ("act_fn", json!("gelu")),
        ("time_embedding_type", json!("fourier")),
        ("attention_type", json!("gated")),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("center_input_sample", json!(true)),
        ("dual_cross_attention", json!(true)),
        ("class_embeddings_concat", json!(true)),
        ("resnet_skip_time_act", json!(true)),
        ("only_cross_attention", json!([false, true, false])),
        ("only_cross_attention", json!(true)),
        ("class_embed_type", json!("timestep")),
        ("num_class_embeds", json!(10)),
        ("encoder_hid_dim", json!(768)),
        ("encoder_hid_dim_type", json!("text_proj")),
        ("time_embedding_act_fn", json!("silu")),
        ("timestep_post_act", json!("silu")),
        ("cross_attention_norm", json!("layer_norm")),
        ("resnet_out_scale_factor", json!(1.4)),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("down_block_types", json!(["DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D"])),
        ("up_block_types", json!(["KUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"])),
    ];
    for (key, value) in cases {
        let error = unet(with(key, value.clone())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("unet/config.json: {key}: ")), "{key} {value}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    let cases = [
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([320, -640, 1280])),
        ("block_out_channels", json!([320, 640.5, 1280])),
        ("block_out_channels", json!(320)),
        ("layers_per_block", json!([2, 2])),
        ("layers_per_block", json!(0)),
        ("layers_per_block", json!(1_000_000_000_000u64)),
        ("attention_head_dim", json!([5, 10, 21])),
        ("attention_head_dim", json!([5, 10])),
        ("transformer_layers_per_block", json!([1, 2])),
        ("transformer_layers_per_block", json!("two")),
        ("down_block_types", json!(["DownBlock2D"])),
        ("norm_num_groups", json!(33)),
        ("norm_eps", json!(0)),
        ("norm_eps", json!("small")),
        ("downsample_padding", json!(2)),
        ("conv_in_kernel", json!(4)),
        ("addition_time_embed_dim", json!(null)),
        ("projection_class_embeddings_input_dim", json!(1536)),
        ("use_linear_projection", json!("yes")),
        ("sample_size", json!([128])),
    ];
    for (key, value) in cases {
        let error = unet(with(key, value.clone())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("unet/config.json: {key}: ")), "{key} {value}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(unet(json!([1])).is_err());
}

#[test]
fn text_encoders_and_autoencoders_go_there_and_back() {
    let text =
        TextEncoderConfig::from_json(Path::new("t"), json!({"architectures": ["CLIPTextModel"]})).unwrap();
    assert_eq!((text.channels, text.layers, text.context, text.projection), (512, 12, 77, None));
    assert_eq!(TextEncoderConfig::from_json(Path::new("t"), text.to_json()).unwrap(), text);
    for (key, value) in
        [("hidden_act", json!("relu")), ("num_attention_heads", json!(7)), ("model_type", json!("t5"))]
    {
        let mut json = text.to_json();
        json[key] = value;
        let error = TextEncoderConfig::from_json(Path::new("t"), json).unwrap_err().to_string();
        assert!(error.starts_with(&format!("t: {key}: ")), "{error}");
    }

    let kinds = json!(["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"]);
    let ups = json!(["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]);
    let json = json!({"_class_name": "AutoencoderKL", "block_out_channels": [32, 64, 64],
        "down_block_types": kinds, "up_block_types": ups, "latents_mean": [1, 2, 3, 4], "latents_std": [1, 1, 2, 2]});
    let vae = VaeConfig::from_json(Path::new("v"), json.clone()).unwrap();
    assert_eq!((vae.factor(), vae.latent_channels(), vae.force_upcast()), (4, 4, true));
    assert_eq!(VaeConfig::from_json(Path::new("v"), vae.to_json()).unwrap(), vae);
    for (key, value) in [
        ("_class_name", json!("AsymmetricAutoencoderKL")),
        ("act_fn", json!("relu")),
        ("up_block_types", json!(["UpDecoderBlock2D"])),
        ("latents_mean", json!([0])),
        ("norm_num_groups", json!(48)),
        ("scaling_factor", json!(0)),
    ] {
        let mut json = json.clone();
        json[key] = value;
        let error = VaeConfig::from_json(Path::new("v"), json).unwrap_err().to_string();
        assert!(error.starts_with(&format!("v: {key}: ")), "{error}");
    }

    let tiny = VaeConfig::Tiny(TinyVaeConfig::default());
    assert_eq!(tiny.factor(), 8);
    assert_eq!(VaeConfig::from_json(Path::new("v"), tiny.to_json()).unwrap(), tiny);
}

/// The meaning of an explicit `null` (Python's `None`) for a key.
#[derive(Debug, Clone, Copy)]
enum Null {
    /// The same as an absent key.
    Absent,
    /// The same as `false`, whatever the default is.
    False,
    /// diffusers cannot compute with it.
    Refused,
}

/// Checks that every key of `whole` that is in none of the lists treats `null` as absent.
fn nulls<C: PartialEq + std::fmt::Debug>(
    whole: &Value,
    read: impl Fn(Value) -> atedm_core::Result<C>,
    refused: &[&str],
    falses: &[&str],
) {
    for key in whole.as_object().unwrap().keys() {
        let expected = match key.as_str() {
            key if refused.contains(&key) => Null::Refused,
            key if falses.contains(&key) => Null::False,
            _ => Null::Absent,
        };
        let with = |value: Value| {
            let mut json = whole.clone();
            json[key] = value;
            json
        };
        let mut absent = whole.clone();
        absent.as_object_mut().unwrap().remove(key);
        let got = read(with(json!(null)));
        match expected {
            Null::Absent => assert_eq!(got.unwrap(), read(absent).unwrap(), "{key}"),
            Null::False => assert_eq!(got.unwrap(), read(with(json!(false))).unwrap(), "{key}"),
            Null::Refused => {
                let error = got.unwrap_err().to_string();
                assert!(
                    error.contains(&format!(": {key}: expected ")) && error.contains("null"),
                    "{key}: {error}"
                );
            }
        }
    }
}

/// Measured with diffusers 0.42 and transformers 5.23: each key is set to `null`, then the model is loaded and run.
#[test]
fn null_is_what_python_makes_of_none() {
    let mut json = sdxl_json();
    // here `null` means that there is no middle
    json.as_object_mut().unwrap().remove("mid_block_type");
    nulls(
        &json,
        unet,
        &[
            "act_fn",
            "addition_embed_type",
            "addition_time_embed_dim",
            "attention_head_dim",
            "block_out_channels",
            "conv_in_kernel",
            "conv_out_kernel",
            "cross_attention_dim",
            "down_block_types",
            "downsample_padding",
            "freq_shift",
            "in_channels",
            "layers_per_block",
            "mid_block_scale_factor",
            "norm_eps",
            "norm_num_groups",
            "only_cross_attention",
            "out_channels",
            "projection_class_embeddings_input_dim",
            "resnet_time_scale_shift",
            "time_embedding_type",
            "transformer_layers_per_block",
            "up_block_types",
        ],
        &["flip_sin_to_cos", "use_linear_projection", "center_input_sample", "dual_cross_attention"],
    );

    let kinds = |kind: &'static str| vec![kind; 2];
    let kl = json!({"_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [32, 64],
        "down_block_types": kinds("DownEncoderBlock2D"), "up_block_types": kinds("UpDecoderBlock2D"), "in_channels": 3,
        "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 8, "sample_size": 64,
        "scaling_factor": 0.5, "shift_factor": 0.1, "latents_mean": [1, 2, 3, 4], "latents_std": [1, 1, 1, 1],
        "force_upcast": true, "use_quant_conv": true, "use_post_quant_conv": true, "mid_block_add_attention": true});
    nulls(
        &kl,
        |json| VaeConfig::from_json(Path::new("vae"), json),
        &[
            "act_fn",
            "block_out_channels",
            "down_block_types",
            "up_block_types",
            "in_channels",
            "out_channels",
            "latent_channels",
            "layers_per_block",
            "norm_num_groups",
            "sample_size",
            "scaling_factor",
        ],
        &["force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"],
    );
    let mut tiny = VaeConfig::Tiny(TinyVaeConfig::default()).to_json();
    tiny["upsample_fn"] = json!("nearest");
    let keys: Vec<String> =
        tiny.as_object().unwrap().keys().filter(|k| *k != "_class_name").cloned().collect();
    tiny["latent_magnitude"] = json!(3);
    let refused: Vec<&str> = keys.iter().map(String::as_str).collect();
    // without its class it is the other autoencoder
    let read = |mut json: Value| {
        json["_class_name"] = json!("AutoencoderTiny");
        VaeConfig::from_json(Path::new("vae"), json)
    };
    nulls(&tiny, read, &refused, &[]);

    let mut text = TextEncoderConfig::from_json(
        Path::new("t"),
        json!({"architectures": ["CLIPTextModelWithProjection"]}),
    )
    .unwrap()
    .to_json();
    text["attention_dropout"] = json!(0.0);
    nulls(
        &text,
        |json| TextEncoderConfig::from_json(Path::new("t"), json),
        &[
            "eos_token_id",
            "hidden_act",
            "hidden_size",
            "intermediate_size",
            "layer_norm_eps",
            "max_position_embeddings",
            "num_attention_heads",
            "num_hidden_layers",
            "projection_dim",
            "vocab_size",
        ],
        &[],
    );
}

/// The spellings of diffusers and of its older releases.
#[test]
fn spellings_that_diffusers_accepts() {
    for name in ["silu", "SiLU", "SILU", "swish", "Swish"] {
        assert_eq!(unet(with("act_fn", json!(name))).unwrap(), UNetConfig::sdxl_base());
    }
    let old = |kinds: &str| kinds.split(' ').map(|kind| format!("UNetRes{kind}")).collect::<Vec<_>>();
    let mut json =
        with("down_block_types", json!(old("DownBlock2D CrossAttnDownBlock2D CrossAttnDownBlock2D")));
    json["up_block_types"] = json!(old("CrossAttnUpBlock2D CrossAttnUpBlock2D UpBlock2D"));
    assert_eq!(unet(json).unwrap(), UNetConfig::sdxl_base());

    let kl = |act: &str, down: &str| {
        let json = json!({"act_fn": act, "down_block_types": [down], "block_out_channels": [32]});
        VaeConfig::from_json(Path::new("v"), json)
    };
    let plain = kl("silu", "DownEncoderBlock2D").unwrap();
    assert_eq!(kl("SiLU", "UNetResDownEncoderBlock2D").unwrap(), plain);
    let error = kl("ReLU", "DownEncoderBlock2D").unwrap_err().to_string();
    assert_eq!(error, "v: act_fn: \"ReLU\" is not supported, expected \"silu\" or \"swish\"");
    let tiny = json!({"_class_name": "AutoencoderTiny", "act_fn": "ReLU"});
    assert_eq!(
        VaeConfig::from_json(Path::new("v"), tiny).unwrap(),
        VaeConfig::Tiny(TinyVaeConfig::default())
    );

    let text = |act: &str| {
        TextEncoderConfig::from_json(Path::new("t"), json!({"hidden_act": act}))
            .map(|config| config.activation)
    };
    assert_eq!(text("gelu").unwrap(), text("gelu_python").unwrap());
    assert!(text("GELU").is_err(), "transformers does not know it");
}

/// A file with impossibly large sizes is refused before lists of that size are made.
#[test]
fn enormous_numbers_are_refused_with_the_limit() {
    let most = 1 << 20;
    for (key, value, limit) in [
        ("layers_per_block", json!(most), 64),
        ("layers_per_block", json!([2, 2, 65]), 64),
        ("transformer_layers_per_block", json!(most), 256),
        ("transformer_layers_per_block", json!([1, 2, 257]), 256),
        ("block_out_channels", json!([most, most, most]), 65_536),
        ("block_out_channels", json!([320, 640, 65_568]), 65_536),
        ("cross_attention_dim", json!(65_537), 65_536),
        ("in_channels", json!(most), 65_536),
        ("out_channels", json!(most), 65_536),
        ("time_embedding_dim", json!(most), 65_536),
        ("time_cond_proj_dim", json!(most), 65_536),
        ("projection_class_embeddings_input_dim", json!(most), 65_536),
        ("conv_in_kernel", json!(65), 63),
        ("conv_out_kernel", json!(most - 1), 63),
    ] {
        let error = unet(with(key, value.clone())).unwrap_err().to_string();
        let expected = format!("unet/config.json: {key}: expected at most {limit}, got ");
        assert!(error.starts_with(&expected), "{key} {value}: {error}");
    }
    // also in sum
    let mut json = with("layers_per_block", json!(64));
    json["transformer_layers_per_block"] = json!(64);
    let error = unet(json).unwrap_err().to_string();
    assert!(error.contains("transformer_layers_per_block: expected at most 4096 layers in all"), "{error}");
    // large but possible sizes are read
    let deep = unet(with("transformer_layers_per_block", json!([1, 2, 256]))).unwrap();
    assert_eq!(deep.blocks(128, 128).last().map(|block| block.depth), Some(2));

    let vae = |json: Value| VaeConfig::from_json(Path::new("vae/config.json"), json).unwrap_err().to_string();
    let kl = |key: &str, value: Value| vae(json!({"_class_name": "AutoencoderKL", key: value}));
    assert!(kl("layers_per_block", json!(most)).contains("layers_per_block: expected at most 64"));
    assert!(kl("block_out_channels", json!([most])).contains("block_out_channels: expected at most 65536"));
    assert!(kl("latent_channels", json!(most)).contains("latent_channels: expected at most 65536"));
    let tiny = |key: &str, value: Value| vae(json!({"_class_name": "AutoencoderTiny", key: value}));
    let blocks = tiny("num_decoder_blocks", json!([3, 3, 3, most]));
    assert!(blocks.contains("num_decoder_blocks: expected at most 64, got 1048576"), "{blocks}");
    let channels = tiny("encoder_block_out_channels", json!([most, most, most, most]));
    assert!(channels.contains("encoder_block_out_channels: expected at most 65536"), "{channels}");

    let text = |key: &str| {
        let json = json!({key: most});
        TextEncoderConfig::from_json(Path::new("text_encoder/config.json"), json).unwrap_err().to_string()
    };
    assert!(text("num_hidden_layers").contains("num_hidden_layers: expected at most 256, got 1048576"));
    assert!(text("max_position_embeddings").contains("max_position_embeddings: expected at most 4096"));
}

/// More than three channels would be lost on the way to a picture. The number of input channels does not matter for
/// text to image.
#[test]
fn autoencoders_make_three_channels() {
    for class in ["AutoencoderKL", "AutoencoderTiny"] {
        let read = |key: &str, channels: usize| {
            let json = json!({"_class_name": class, "norm_num_groups": 1, key: channels});
            VaeConfig::from_json(Path::new("vae/config.json"), json)
        };
        for channels in [1, 4] {
            let error = read("out_channels", channels).unwrap_err().to_string();
            let expected =
                format!("vae/config.json: out_channels: expected 3 (red, green and blue), got {channels}");
            assert_eq!(error, expected, "{class}");
            read("in_channels", channels).unwrap();
        }
        read("out_channels", 3).unwrap();
    }
}
