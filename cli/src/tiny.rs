//! A tiny SD-XL with seeded random weights, as a diffusers folder. With it you can try the program without a download.

use atedm_core::DType;
use atedm_experiment::files::NamedFile;
use atedm_sdxl::architecture::{Architecture, Autoencoder, Folder, Parameter, Role, Text, UNet, Vocabulary};
use atedm_sdxl::checkpoint::Part;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::failure::Outcome;

/// The notice in every text about the folder.
pub(crate) const NOTICE: &str =
    "UNTRAINED: random weights, for trying the program only; its pictures are noise";

/// Words that are one token each. Any other text splits into letters.
#[rustfmt::skip]
const WORDS: [&str; 48] = [
    "a", "an", "the", "of", "in", "on", "at", "and", "with", "photo", "picture", "painting", "drawing", "red", "green",
    "blue", "yellow", "orange", "purple", "black", "white", "small", "large", "circle", "square", "triangle", "star", "ring",
    "diamond", "left", "right", "top", "bottom", "center", "background", "fox", "cat", "dog", "bird", "house", "tree", "snow",
    "sea", "sky", "mountain", "forest", "city", "astronaut",
];

/// SD-XL's structure at a twentieth of its width.
fn architecture() -> Architecture {
    Architecture {
        size: 256,
        context: 77,
        text: Text { channels: [32; 2], layers: [2; 2], heads: [2; 2], expansion: 2, projection: 32 },
        unet: UNet {
            channels: vec![16, 32, 64],
            layers: 2,
            depths: vec![0, 2, 3],
            head_channels: 16,
            groups: 8,
            size_channels: 8,
        },
        vae: Autoencoder {
            channels: vec![8, 16, 16, 16],
            layers: 1,
            groups: 4,
            latent_channels: 4,
            scaling_factor: 0.13025,
            mid_attention: true,
        },
    }
}

/// The files of the folder: path below the folder, and content. The same seed gives the same bytes.
pub(crate) fn files(seed: u64) -> Outcome<Vec<NamedFile>> {
    let (architecture, vocabulary) = (architecture(), Vocabulary::of_words(WORDS));
    let folder = Folder {
        architecture: &architecture,
        vocabulary: &vocabulary,
        name: &format!("tiny-{seed} ({NOTICE})"),
        card: &readme(seed),
        dtype: DType::F32,
    };
    // Each part has its own stream of random numbers.
    let mut streams = Part::ALL.map(|part| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(part as u64);
        rng
    });
    Ok(folder.files(|part, parameter| Ok(values(parameter, &mut streams[part as usize])))?)
}

fn readme(seed: u64) -> String {
    format!(
        "# Tiny SD-XL ({NOTICE})\n\nWritten by `atedm init-tiny` {} with seed {seed}. It has the structure of SD-XL (two text \
         encoders, a U-Net\nof three levels with attention on two, an autoencoder of factor 8) at a twentieth of its width.\n\
         Nothing in it was trained.\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// The standard deviation of a parameter's random values. A weight's output has the size of its input. Queries and keys
/// of the transformers are larger, so that the attention maps of random weights are not flat.
fn deviation(parameter: &Parameter) -> f32 {
    let name = &parameter.name;
    let gain = match name.rsplit_once(".to_") {
        Some((layer, "q.weight" | "k.weight")) if layer.contains("transformer_blocks") => 1.8,
        _ => 1.0,
    };
    let inputs: usize = parameter.shape.iter().skip(1).product();
    gain / (inputs.max(1) as f32).sqrt()
}

/// The values of a parameter.
fn values(parameter: &Parameter, rng: &mut ChaCha8Rng) -> Vec<f32> {
    match parameter.role {
        Role::Scale => vec![1.0; parameter.count()],
        Role::Bias => vec![0.0; parameter.count()],
        Role::Weight => uniform(parameter.count(), deviation(parameter), rng),
        Role::Embedding => uniform(parameter.count(), 0.3, rng),
    }
}

/// Uniform values with this standard deviation. It uses no function whose last bit differs between platforms.
fn uniform(count: usize, deviation: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let half_width = deviation * 3f32.sqrt();
    let unit = |bits: u32| (bits >> 8) as f32 * (2.0 / (1 << 24) as f32) - 1.0;
    (0..count).map(|_| unit(rng.next_u32()) * half_width).collect()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_seed_decides_every_byte() {
        assert_eq!(files(3).unwrap(), files(3).unwrap());
        let (a, b) = (files(3).unwrap(), files(4).unwrap());
        let differing: Vec<&str> =
            a.iter().zip(&b).filter(|(a, b)| a.1 != b.1).map(|(a, _)| a.0.as_str()).collect();
        assert!(differing.contains(&"unet/diffusion_pytorch_model.safetensors"), "{differing:?}");
        assert!(!differing.contains(&"tokenizer/vocab.json"));
    }

    /// Tests and published results identify this folder by its seed alone.
    #[test]
    fn seed_0_is_what_it_always_was() {
        let mut files = files(0).unwrap();
        // it contains the program's version
        files.retain(|(name, _)| name != "README.md");
        files.sort();
        let mut hash = Sha256::new();
        for (name, content) in &files {
            hash.update(name);
            hash.update(content);
        }
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "a91d46cc8631d56c5cf2aefa557c37e0d34a6fffd59506296971c63d73c47b5f");
    }

    #[test]
    fn weights_have_the_deviation_asked_for() {
        let values = uniform(4096, 0.5, &mut ChaCha8Rng::seed_from_u64(1));
        let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((square.sqrt() - 0.5).abs() < 0.02, "{square}");
    }
}
