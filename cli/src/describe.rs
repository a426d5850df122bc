//! A checkpoint's parts in a few words each.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use atedm_sdxl::checkpoint::{Checkpoint, Part};
use atedm_sdxl::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use atedm_sdxl::schedulers::SchedulerConfig;
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};

/// Each part's folder, what it is, and what its weight files hold.
pub(crate) fn parts(checkpoint: &Checkpoint) -> Outcome<Vec<(&'static str, String)>> {
    let [first, second] = checkpoint.text_encoders();
    let words = |part: Part, words: String| -> Outcome<(&'static str, String)> {
        Ok((part.folder(), format!("{words}; {}", weights(checkpoint, part)?)))
    };
    Ok(vec![
        words(Part::TextEncoder, text_words(first))?,
        words(Part::TextEncoder2, text_words(second))?,
        words(Part::UNet, unet_words(checkpoint.unet()))?,
        words(Part::Vae, vae_words(checkpoint.vae()))?,
        ("scheduler", scheduler_words(checkpoint.scheduler())),
    ])
}

fn text_words(config: &TextEncoderConfig) -> String {
    let TextEncoderConfig { layers, channels, context, vocabulary, .. } = config;
    let projection = config.projection.map_or(String::new(), |width| format!(", projection to {width}"));
    format!("{layers} layers of {channels} channels, {context} tokens, vocabulary {vocabulary}{projection}")
}

fn unet_words(config: &UNetConfig) -> String {
    let channels = joined(config.down.iter().map(|stage| stage.channels.to_string()));
    let depth = |depths: &Vec<usize>| depths.first().map_or("-".to_string(), usize::to_string);
    let depths =
        joined(config.down.iter().map(|stage| stage.attention.as_ref().map_or("-".to_string(), depth)));
    format!("channels {channels}, transformer depths {depths}, text channels {}", config.text_channels())
}

fn vae_words(config: &VaeConfig) -> String {
    let (kind, channels) = match config {
        VaeConfig::Kl(kl) => ("AutoencoderKL", &kl.channels),
        VaeConfig::Tiny(tiny) => ("AutoencoderTiny", &tiny.decoder_channels),
    };
    let (factor, latents) = (config.factor(), config.latent_channels());
    format!(
        "{kind}, factor {factor}, {latents} latent channels, channels {}",
        joined(channels.iter().map(usize::to_string))
    )
}

fn scheduler_words(config: &SchedulerConfig) -> String {
    let spacing =
        config.spacing.map_or(String::new(), |spacing| format!(", {spacing:?} spacing").to_lowercase());
    let karras = if config.karras { ", Karras" } else { "" };
    format!("{}{spacing}{karras}, {} training steps", config.class_name, config.num_train_timesteps)
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join("/")
}

/// How many parameters a part's files hold, and in which dtypes.
fn weights(checkpoint: &Checkpoint, part: Part) -> Outcome<String> {
    let (mut parameters, mut dtypes) = (0u64, BTreeSet::new());
    let files = checkpoint.files(part);
    for file in files {
        for (name, info) in header(&file.path)? {
            let shape = info.get("shape").and_then(Value::as_array).filter(|_| name != "__metadata__");
            let Some(shape) = shape else { continue };
            let count =
                shape.iter().map(|length| length.as_u64().unwrap_or(0)).fold(1u64, u64::saturating_mul);
            parameters = parameters.saturating_add(count);
            dtypes.extend(info.get("dtype").and_then(Value::as_str).map(str::to_string));
        }
    }
    let dtypes: Vec<String> = dtypes.into_iter().collect();
    let shards = if files.len() == 1 { String::new() } else { format!(" in {} files", files.len()) };
    Ok(format!("{} parameters, {}{shards}", readable(parameters), dtypes.join(" and ")))
}

/// A safetensors file's header, without its data: 8 bytes of length, then JSON.
fn header(path: &Path) -> Outcome<Map<String, Value>> {
    /// As the format's own library limits it.
    const LONGEST: u64 = 100_000_000;
    let failed = |error: std::io::Error| Failure::file(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    let mut json = Vec::new();
    file.take(length.min(LONGEST)).read_to_end(&mut json).map_err(failed)?;
    serde_json::from_slice(&json)
        .map_err(|error| Failure::file(path, format!("expected a safetensors header: {error}")))
}

/// A large count as a person reads it.
fn readable(count: u64) -> String {
    match count as f64 {
        large if large >= 1e9 => format!("{:.2} G", large / 1e9),
        middle if middle >= 1e6 => format!("{:.2} M", middle / 1e6),
        small if small >= 1e3 => format!("{:.1} k", small / 1e3),
        few => few.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_without_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let json = br#"{"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}"#;
        std::fs::write(&path, [&(json.len() as u64).to_le_bytes()[..], json].concat()).unwrap();
        assert_eq!(header(&path).unwrap()["a"]["dtype"], "F16");
        std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
        assert!(header(&path).unwrap_err().to_string().contains("w.safetensors"));
        std::fs::write(&path, b"abc").unwrap();
        assert!(header(&path).is_err());
    }

    #[test]
    fn counts_are_short() {
        let counts = [2_567_463_684, 7_170_000, 1_500, 12].map(readable);
        assert_eq!(counts, ["2.57 G", "7.17 M", "1.5 k", "12"]);
    }
}
