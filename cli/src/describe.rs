//! Describes a checkpoint's parts in a few words each.

use atedm_sdxl::checkpoint::{Checkpoint, Embedding, LoraFile, Part};
use atedm_sdxl::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use atedm_sdxl::schedulers::{Levels, Prediction, SchedulerConfig};
use atedm_sdxl::weights::Contents;

use crate::failure::{Failure, Outcome};

/// The description of a checkpoint in one file.
const SINGLE_FILE: &str = "single file with the original names, SD-XL";

/// For each part: its folder, a description, and the contents of its weight files.
pub(crate) fn parts(checkpoint: &Checkpoint) -> Outcome<Vec<(&'static str, String)>> {
    let [first, second] = checkpoint.text_encoders();
    let words = |part: Part, words: String| -> Outcome<(&'static str, String)> {
        Ok((part.folder(), format!("{words}; {}", weights(checkpoint, part)?)))
    };
    let file = checkpoint.is_single_file().then(|| ("file", SINGLE_FILE.to_string()));
    let parts = [
        words(Part::TextEncoder, text_words(first))?,
        words(Part::TextEncoder2, text_words(second))?,
        words(Part::UNet, unet_words(checkpoint.unet()))?,
        words(Part::Vae, vae_words(checkpoint.vae()))?,
        ("scheduler", scheduler_words(checkpoint.scheduler())),
    ];
    let control = control_words(checkpoint)?.map(|words| ("controlnet", words));
    let words = checkpoint.embeddings().iter().map(embedding_words);
    let embeddings =
        (!checkpoint.embeddings().is_empty()).then(|| ("embeddings", words.collect::<Vec<_>>().join(", ")));
    Ok(file.into_iter().chain(parts).chain(control).chain(embeddings).collect())
}

/// A description of each LoRA of a checkpoint.
pub(crate) fn loras(checkpoint: &Checkpoint) -> Vec<String> {
    let words = |file: &LoraFile| {
        let lora = file.lora();
        let ranks = file.ranks().map_or(String::new(), |ranks| match (ranks.start(), ranks.end()) {
            (low, high) if low == high => format!(", rank {low}"),
            (low, high) => format!(", ranks {low} to {high}"),
        });
        let parts = Part::ALL.map(|part| (part.folder(), file.layers(part)));
        let layers = parts.iter().filter(|(_, layers)| *layers > 0);
        let layers =
            layers.map(|(part, layers)| format!("{layers} layers of {part}")).collect::<Vec<_>>().join(", ");
        let clip = lora.clip_scale.map_or(String::new(), |scale| format!(" ({scale} for text encoders)"));
        format!("{}: {}{ranks}, {layers}; scale {}{clip}", lora.file_name(), file.kind(), lora.scale)
    };
    checkpoint.loras().iter().map(words).collect()
}

fn text_words(config: &TextEncoderConfig) -> String {
    let TextEncoderConfig { layers, channels, context, vocabulary, .. } = config;
    let projection = config.projection.map_or(String::new(), |width| format!(", projection to {width}"));
    format!("{layers} layers of {channels} channels, {context} tokens, vocabulary {vocabulary}{projection}")
}

/// The word of a textual inversion, and the tokens that it takes.
fn embedding_words(embedding: &Embedding) -> String {
    let tokens = if embedding.count() == 1 { "token" } else { "tokens" };
    format!("{:?} ({} {tokens})", embedding.word(), embedding.count())
}

fn unet_words(config: &UNetConfig) -> String {
    let purpose = if config.is_inpainting() { ", inpainting" } else { "" };
    format!("{}, text channels {}{purpose}", stage_words(config), config.text_channels())
}

/// The stages of a way down.
fn stage_words(config: &UNetConfig) -> String {
    let channels = joined(config.down.iter().map(|stage| stage.channels.to_string()));
    let depth = |depths: &Vec<usize>| depths.first().map_or("-".to_string(), usize::to_string);
    let depths =
        joined(config.down.iter().map(|stage| stage.attention.as_ref().map_or("-".to_string(), depth)));
    format!("channels {channels}, transformer depths {depths}")
}

/// The ControlNet beside the U-Net, if there is one.
fn control_words(checkpoint: &Checkpoint) -> Outcome<Option<String>> {
    let contents = checkpoint.control_contents().map_err(Failure::run)?;
    let both = checkpoint.unet().control.as_ref().zip(contents);
    Ok(both.map(|(config, contents)| {
        let factor = config.factor();
        format!("{}, factor {factor}; {}", stage_words(&config.half), contents_words(contents))
    }))
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
    let levels = match config.levels {
        Levels::Training => String::new(),
        levels => format!(", {levels:?} levels"),
    };
    let prediction = match config.prediction {
        Prediction::VPrediction => ", v-prediction",
        _ => "",
    };
    let zero = if config.rescale_betas_zero_snr { ", zero terminal SNR" } else { "" };
    format!(
        "{}{spacing}{levels}{prediction}{zero}, {} training steps",
        config.class_name, config.num_train_timesteps
    )
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join("/")
}

/// The number of parameters in a part's files, and their dtypes.
fn weights(checkpoint: &Checkpoint, part: Part) -> Outcome<String> {
    let contents = checkpoint.contents(part).map_err(Failure::run)?;
    let files = checkpoint.files(part).len();
    let shards = if files == 1 { String::new() } else { format!(" in {files} files") };
    Ok(format!("{}{shards}", contents_words(contents)))
}

fn contents_words(contents: Contents) -> String {
    let dtypes: Vec<String> = contents.dtypes.into_iter().collect();
    format!("{} parameters, {}", readable(contents.parameters), dtypes.join(" and "))
}

/// A large count in a readable form.
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
    fn counts_are_short() {
        let counts = [2_567_463_684, 7_170_000, 1_500, 12].map(readable);
        assert_eq!(counts, ["2.57 G", "7.17 M", "1.5 k", "12"]);
    }
}
