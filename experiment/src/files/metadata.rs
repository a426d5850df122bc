//! The metadata of a picture: the `parameters` text of AUTOMATIC1111's web UI, and our own keys.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::png::TextChunk;
use crate::parts::Parts;
use crate::record::{Flops, PointInfo, PromptLine, Provenance, UsedControl, UsedLora};

/// The settings that a picture was made with.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFacts {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt.
    pub negative_prompt: Option<String>,
    /// The syntax of both prompts.
    pub prompt_syntax: String,
    /// How many more of the text encoders' last layers are left out, as diffusers counts them.
    pub clip_skip: usize,
    /// The words of textual inversions, each with the SHA-256 of its file.
    pub embeddings: BTreeMap<String, String>,
    /// Denoising steps of the full schedule.
    pub steps: usize,
    /// The sampler.
    pub sampler: String,
    /// The classifier-free guidance scale.
    pub guidance_scale: f64,
    /// How far guided predictions get the standard deviation of the prompt's own prediction: 0 to 1.
    pub guidance_rescale: f64,
    /// For image to image: the share of the schedule that ran.
    pub strength: Option<f64>,
    /// For a part of a picture that is painted again: the name of the mask's file.
    pub mask: Option<String>,
    /// Seed of the noise.
    pub seed: u64,
    /// The index in the batch, counted from 0. One seed draws the noise of the whole batch.
    pub batch_index: usize,
    /// Images in the batch.
    pub batch_images: usize,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The checkpoint.
    pub model: String,
    /// The files that replace parts of the checkpoint.
    pub parts: Parts,
    /// The LoRAs that changed its weights.
    pub loras: Vec<UsedLora>,
    /// What its ControlNet followed.
    pub control: Option<UsedControl>,
    /// The generator of the noise.
    pub rng: String,
    /// The dtype that the noise was drawn in.
    pub rng_dtype: String,
    /// The method's registered name.
    pub method: String,
    /// The method's options.
    pub options: Value,
    /// The cost of the U-Net.
    pub flops: Flops,
    /// The backend.
    pub backend: String,
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
    /// Element type of weights and activations.
    pub dtype: String,
}

impl ImageFacts {
    /// The facts of an image that is alone in its batch and starts from noise.
    pub fn of(info: &PointInfo, prompt: &PromptLine, flops: Flops, by: &Provenance) -> Self {
        let settings = info.settings.clone();
        Self {
            prompt: prompt.prompt.clone(),
            negative_prompt: settings.negative_prompt,
            prompt_syntax: settings.prompt_syntax,
            clip_skip: settings.clip_skip,
            embeddings: settings.embeddings,
            steps: settings.steps,
            sampler: settings.scheduler,
            guidance_scale: settings.guidance_scale,
            guidance_rescale: settings.guidance_rescale,
            strength: None,
            mask: None,
            seed: prompt.seed,
            batch_index: 0,
            batch_images: 1,
            width: settings.width,
            height: settings.height,
            model: settings.model,
            parts: settings.parts,
            loras: settings.loras,
            control: settings.control,
            rng: settings.rng,
            rng_dtype: settings.rng_dtype,
            method: settings.method,
            options: settings.options,
            flops,
            backend: by.backend.clone(),
            device: by.device.clone(),
            dtype: by.dtype.clone(),
        }
    }
}

/// The text chunks of one picture: `parameters`, then `atedm:…`.
pub fn text_chunks(facts: &ImageFacts) -> Vec<TextChunk> {
    let mut chunks = vec![
        TextChunk::new("parameters", parameters(facts)),
        TextChunk::new("atedm:version", env!("CARGO_PKG_VERSION")),
        TextChunk::new("atedm:method", facts.method.clone()),
        TextChunk::new("atedm:options", facts.options.to_string()),
        TextChunk::new("atedm:backend", facts.backend.clone()),
        TextChunk::new("atedm:device", facts.device.clone()),
        TextChunk::new("atedm:dtype", facts.dtype.clone()),
        TextChunk::new("atedm:rng_dtype", facts.rng_dtype.clone()),
        TextChunk::new("atedm:prompt_syntax", facts.prompt_syntax.clone()),
        TextChunk::new("atedm:clip_skip", facts.clip_skip.to_string()),
        TextChunk::new("atedm:batch", format!("{}/{}", facts.batch_index, facts.batch_images)),
    ];
    if !facts.embeddings.is_empty() {
        chunks.push(TextChunk::new("atedm:embeddings", json!(facts.embeddings).to_string()));
    }
    let [mean, full] = [facts.flops.mean_tflop, facts.flops.whole_tflop].map(|tflop| tflop * 1e12);
    let flops = json!({ "mean_per_step": mean, "unpruned": full, "unit": "2 x MAC, one sample, one U-Net evaluation" });
    chunks.push(TextChunk::new("atedm:flops", flops.to_string()));
    if !facts.loras.is_empty() {
        chunks.push(TextChunk::new("atedm:loras", json!(facts.loras).to_string()));
    }
    if let Some(control) = &facts.control {
        chunks.push(TextChunk::new("atedm:control", json!(control).to_string()));
    }
    chunks
}

/// The prompt, the negative prompt, then `Key: value` pairs on one line.
fn parameters(facts: &ImageFacts) -> String {
    let mut text = format!("{}\n", facts.prompt);
    if let Some(negative) = &facts.negative_prompt {
        text.push_str(&format!("Negative prompt: {negative}\n"));
    }
    let rescale = match facts.guidance_rescale > 0.0 {
        true => format!("CFG rescale: {}, ", facts.guidance_rescale),
        false => String::new(),
    };
    // The web UI counts from the last layer, and calls SD-XL's own choice 2.
    let skip = match facts.clip_skip {
        0 => String::new(),
        layers => format!("Clip skip: {}, ", layers + 2),
    };
    let strength = facts.strength.map_or(String::new(), |share| format!("Denoising strength: {share}, "));
    let mask = facts.mask.as_ref().map_or(String::new(), |name| format!("Mask: {}, ", quoted(name)));
    let part = |(option, name): (&str, &str)| match option {
        "vae" => format!("VAE: {}, ", quoted(name)),
        "unet" => format!("U-Net: {}, ", quoted(name)),
        "controlnet" => format!("ControlNet: {}, ", quoted(name)),
        option => format!("{option}: {}, ", quoted(name)),
    };
    let parts: String = facts.parts.iter().map(part).collect();
    text.push_str(&format!(
        "Steps: {}, Sampler: {}, CFG scale: {}, {rescale}Seed: {}, Size: {}x{}, Model: {}, {parts}{strength}{mask}{skip}{}RNG: {}, \
         Token pruning: {}, Version: atedm {}",
        facts.steps,
        facts.sampler,
        facts.guidance_scale,
        facts.seed,
        facts.width,
        facts.height,
        quoted(&facts.model),
        hashes(&facts.embeddings),
        facts.rng,
        facts.method,
        env!("CARGO_PKG_VERSION")
    ));
    text
}

/// The words of textual inversions with the beginnings of their hashes, as the web UI writes them.
fn hashes(embeddings: &BTreeMap<String, String>) -> String {
    if embeddings.is_empty() {
        return String::new();
    }
    let plain = |word: &str| word.replace([':', ','], "");
    let hash =
        |(word, hash): (&String, &String)| format!("{}: {}", plain(word), hash.get(..12).unwrap_or(hash));
    let all: Vec<String> = embeddings.iter().map(hash).collect();
    format!("TI hashes: {}, ", quoted(&all.join(", ")))
}

/// Quotes values with a comma or a colon, as readers of that format expect.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) { Value::from(value).to_string() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_have_the_form_that_readers_expect() {
        let facts = ImageFacts {
            prompt: "a fox, red".into(),
            negative_prompt: Some("blurry".into()),
            prompt_syntax: "a1111".into(),
            clip_skip: 1,
            embeddings: [("fox".to_string(), "0123456789abcdef".to_string())].into(),
            steps: 20,
            sampler: "euler".into(),
            guidance_scale: 7.0,
            guidance_rescale: 0.0,
            strength: None,
            mask: None,
            seed: 3,
            batch_index: 0,
            batch_images: 1,
            width: 64,
            height: 32,
            model: "a:b".into(),
            parts: serde_json::from_value(json!({"vae": "x,y"})).unwrap(),
            loras: vec![UsedLora {
                file: "ink.safetensors".into(),
                hash: "00ff".into(),
                scale: 0.8,
                clip_scale: 0.5,
            }],
            control: Some(UsedControl {
                image: "edges.png".into(),
                hash: "0f".into(),
                scale: 0.75,
                start: 0.0,
                end: 0.5,
            }),
            rng: "torch".into(),
            rng_dtype: "f16".into(),
            method: "at-edm".into(),
            options: json!({"ratio": 0.5}),
            flops: Flops { mean_tflop: 1e-12, whole_tflop: 2e-12, evaluations: 1 },
            backend: "candle".into(),
            device: "cpu".into(),
            dtype: "f32".into(),
        };
        let chunks = text_chunks(&facts);
        let lines: Vec<&str> = chunks[0].text.lines().collect();
        assert_eq!(lines[..2], ["a fox, red", "Negative prompt: blurry"]);
        assert!(
            lines[2]
                .starts_with("Steps: 20, Sampler: euler, CFG scale: 7, Seed: 3, Size: 64x32, Model: \"a:b\", VAE: \"x,y\", Clip skip: 3")
        );
        assert!(
            lines[2].contains("Clip skip: 3, TI hashes: \"fox: 0123456789ab\", RNG: torch"),
            "{}",
            lines[2]
        );
        let of = |key: &str| chunks.iter().find(|chunk| chunk.key == key).map(|chunk| chunk.text.as_str());
        assert_eq!(of("atedm:options"), Some("{\"ratio\":0.5}"));
        assert_eq!(of("atedm:rng_dtype"), Some("f16"));
        let loras = r#"[{"clip_scale":0.5,"file":"ink.safetensors","hash":"00ff","scale":0.8}]"#;
        assert_eq!(of("atedm:loras"), Some(loras));
        let control = r#"{"end":0.5,"hash":"0f","image":"edges.png","scale":0.75,"start":0.0}"#;
        assert_eq!(of("atedm:control"), Some(control));
        assert_eq!((of("atedm:prompt_syntax"), of("atedm:clip_skip")), (Some("a1111"), Some("1")));
        assert_eq!(of("atedm:embeddings"), Some("{\"fox\":\"0123456789abcdef\"}"));
        assert!(of("atedm:flops").unwrap().contains("mean_per_step"));
    }
}
