//! A tiny SD-XL with seeded random weights, as a diffusers folder: for trying the program without a download.

mod config;
mod shapes;
mod tokenizer;

use std::collections::{BTreeMap, HashMap};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::files::NamedFile;
use shapes::{Fill, Parameter};

/// One sentence that stands wherever the folder is announced.
pub(crate) const NOTICE: &str =
    "UNTRAINED: random weights, for trying the program only; its pictures are noise";

/// The folder's files: path below the folder, and content. The same seed gives the same bytes.
pub(crate) fn files(seed: u64) -> Outcome<Vec<NamedFile>> {
    let vocabulary = tokenizer::Vocabulary::new();
    let sizes = config::Sizes::new(vocabulary.len());
    let mut files = vec![("README.md".to_string(), readme(seed).into_bytes())];
    for (name, value) in config::documents(&sizes, seed) {
        files.push((name.to_string(), json(&value)?));
    }
    for (folder, pad) in [("tokenizer", tokenizer::END), ("tokenizer_2", "!")] {
        for (name, content) in vocabulary.files(pad, config::CONTEXT)? {
            files.push((format!("{folder}/{name}"), content));
        }
    }
    let parts = [
        ("text_encoder/model.safetensors", shapes::text_encoder(&sizes, None)),
        ("text_encoder_2/model.safetensors", shapes::text_encoder(&sizes, Some(config::TEXT))),
        ("unet/diffusion_pytorch_model.safetensors", shapes::unet(&sizes)),
        ("vae/diffusion_pytorch_model.safetensors", shapes::vae(&sizes)),
    ];
    for (stream, (name, parameters)) in parts.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        files.push((name.to_string(), weights(&parameters, &mut rng)?));
    }
    Ok(files)
}

fn json(value: &Value) -> Outcome<Vec<u8>> {
    let mut text = serde_json::to_string_pretty(value).map_err(Failure::run)?;
    text.push('\n');
    Ok(text.into_bytes())
}

fn readme(seed: u64) -> String {
    format!(
        "# Tiny SD-XL ({NOTICE})\n\nWritten by `atedm init-tiny` {} with seed {seed}. It has the structure of SD-XL (two text \
         encoders, a U-Net\nof three levels with attention on two, an autoencoder of factor 8) at a twentieth of its width.\n\
         Nothing in it was trained.\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Uniform values with the standard deviation that keeps a signal's size: no function whose last bit differs between
/// platforms is involved.
fn weights(parameters: &[Parameter], rng: &mut ChaCha8Rng) -> Outcome<Vec<u8>> {
    let mut tensors = BTreeMap::new();
    for Parameter { name, shape, fill } in parameters {
        let count: usize = shape.iter().product();
        let bytes: Vec<u8> = match fill {
            Fill::Constant(value) => value.to_le_bytes().repeat(count),
            Fill::Random { deviation } => {
                let half_width = deviation * 3f32.sqrt();
                let unit = |bits: u32| (bits >> 8) as f32 * (2.0 / (1 << 24) as f32) - 1.0;
                (0..count).flat_map(|_| (unit(rng.next_u32()) * half_width).to_le_bytes()).collect()
            }
        };
        tensors.insert(name.as_str(), (shape, bytes));
    }
    let failed = |error: safetensors::SafeTensorError| Failure::run(format!("weights: {error}"));
    let mut views = Vec::with_capacity(tensors.len());
    for (name, (shape, bytes)) in &tensors {
        views.push((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).map_err(failed)?));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn weights_have_the_deviation_asked_for() {
        let parameter =
            Parameter { name: "w".into(), shape: vec![64, 64], fill: Fill::Random { deviation: 0.5 } };
        let bytes = weights(&[parameter], &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor("w").unwrap().data().to_vec();
        let values: Vec<f32> =
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((square.sqrt() - 0.5).abs() < 0.02, "{square}");
    }
}
