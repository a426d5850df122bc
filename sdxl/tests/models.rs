//! Compares text encoders, tokenizers and autoencoders with the outputs of transformers and diffusers (tests/fixtures).

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use atedm_conformance::tolerance::relative_l2;
use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{DType, Tensor, WeightSource, Weights};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, Part};
use atedm_sdxl::config::{KlConfig, TinyVaeConfig, VaeConfig};
use atedm_sdxl::text::{TextEncoder, join_hidden};
use atedm_sdxl::vae::{TileOptions, Vae};
use atedm_sdxl::weights::{Naming, RandomSource, Recorder, SafetensorsSource, WeightFile};
use serde_json::Value;
use support::{T, vae_json};

/// Largest relative L2 distance from diffusers, in f32.
const MODULE: f64 = 2e-6;

fn fixtures() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    assert!(folder.exists(), "{} is missing: golden files come with the repository only", folder.display());
    folder
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A checkpoint and the outputs of its modules.
fn golden(name: &str) -> (Checkpoint, impl Fn(&str) -> T, Value) {
    let checkpoint = Checkpoint::open(fixtures().join(name), OpenOptions::default()).unwrap();
    let expected = fixtures().join(format!("{name}-expected"));
    let source =
        SafetensorsSource::open(&[expected.join("modules.safetensors").into()], DType::F32, NdDevice)
            .unwrap();
    let tensor = move |name: &str| -> T {
        let shape = WeightSource::<T>::shape_of(&source, name).unwrap_or_else(|| panic!("no {name}"));
        source.tensor(name, &shape).unwrap()
    };
    (checkpoint, tensor, json(&expected.join("modules.json")))
}

fn weights(checkpoint: &Checkpoint, part: Part) -> Weights<T> {
    checkpoint.weights(part, DType::F32, &NdDevice).unwrap()
}

#[track_caller]
fn distance(got: &T, expected: &T) -> f64 {
    assert_eq!(got.shape(), expected.shape());
    relative_l2(&got.to_f32().unwrap(), &expected.to_f32().unwrap())
}

#[track_caller]
fn close(got: &T, expected: &T, what: &str) {
    let distance = distance(got, expected);
    assert!(distance <= MODULE, "{what}: {distance:e} from diffusers");
}

/// Values with different sizes and signs, made without a generator.
fn wave(shape: &[usize], step: f32) -> T {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * step).sin()).collect();
    T::from_f32(&values, shape, DType::F32, &NdDevice).unwrap()
}

#[test]
fn prompts_become_hidden_states() {
    for name in ["tiny-a", "tiny-b"] {
        let (checkpoint, tensor, json) = golden(name);
        let prompts: Vec<&str> =
            json["prompts"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        let mut hidden = Vec::new();
        for (i, part) in [Part::TextEncoder, Part::TextEncoder2].into_iter().enumerate() {
            let tokenizer = &checkpoint.tokenizers().unwrap()[i];
            let encoded: Vec<_> = prompts.iter().map(|prompt| tokenizer.encode(prompt).unwrap()).collect();
            assert!(encoded[0].cut == 0 && encoded[2].cut > 0, "{name}: only the last prompt is too long");
            let ids: Vec<Vec<u32>> = encoded.into_iter().map(|tokens| tokens.ids).collect();

            let encoder =
                TextEncoder::<Reference32>::load(&weights(&checkpoint, part), checkpoint.text_encoders()[i])
                    .unwrap();
            let output = encoder.encode(&ids, &NdDevice).unwrap();
            close(&output.hidden, &tensor(&format!("{}.hidden", part.folder())), name);
            assert_eq!(output.pooled.is_some(), part == Part::TextEncoder2);
            if let Some(pooled) = output.pooled {
                close(&pooled, &tensor("text_encoder_2.pooled"), name);
            }
            hidden.push(output.hidden);

            let out_of_range = vec![vec![u32::MAX]];
            let wrong = [vec![], vec![vec![]], vec![vec![1], vec![1, 2]], vec![vec![1; 1000]], out_of_range];
            assert!(wrong.iter().all(|ids| encoder.encode(ids, &NdDevice).is_err()));
        }
        let joined = join_hidden(&hidden[0], &hidden[1]).unwrap();
        assert_eq!(joined.shape()[2], checkpoint.unet().text_channels());
        assert!(join_hidden(&hidden[0], &hidden[1].narrow(1, 0, 3).unwrap()).is_err());
    }
}

#[test]
fn tokens_are_those_of_transformers() {
    let list = json(&fixtures().join("tokens.json"));
    for name in ["tiny-a", "tiny-b"] {
        let checkpoint = Checkpoint::open(fixtures().join(name), OpenOptions::default()).unwrap();
        let folders = ["tokenizer", "tokenizer_2"];
        for folder in folders {
            let path = checkpoint.root().join(folder);
            let tokenizer = atedm_sdxl::tokenizer::ClipTokenizer::open(&path, 24).unwrap();
            for case in list.as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let got = tokenizer.encode(text).unwrap();
                let expected = case[format!("{folder}.24")].as_array().unwrap();
                let expected: Vec<u64> = expected.iter().map(|id| id.as_u64().unwrap()).collect();
                assert_eq!(
                    got.ids.iter().map(|id| u64::from(*id)).collect::<Vec<_>>(),
                    expected,
                    "{name} {text:?}"
                );
                assert_eq!(
                    got.cut,
                    case["ids"].as_array().unwrap().len().saturating_sub(24),
                    "{name} {text:?}"
                );
            }
        }
    }
}

#[test]
fn latents_become_images() {
    for name in ["tiny-a", "tiny-b"] {
        let (checkpoint, tensor, _) = golden(name);
        let vae = Vae::<Reference32>::load(&weights(&checkpoint, Part::Vae), checkpoint.vae()).unwrap();
        let latents = tensor("vae.latents");
        let image = vae.decode(&latents).unwrap();
        close(&image, &tensor("vae.image"), name);
        let whole = vae.decode_tiled(&latents, &vae.tiles()).unwrap();
        assert_eq!(whole.to_f32().unwrap(), image.to_f32().unwrap(), "one tile holds it all");

        let [_, _, height, width] = atedm_core::backend::dims(&image, "image").unwrap();
        let encoded = vae.encode(&image).unwrap();
        assert_eq!(encoded.shape(), [2, 4, height / vae.factor(), width / vae.factor()]);
        let there_and_back = vae.unscale(&vae.scale(&encoded).unwrap()).unwrap();
        assert!(distance(&there_and_back, &encoded) < 1e-6);
        assert!(vae.decode(&image).is_err() && vae.encode(&latents).is_err());
    }
}

#[test]
fn tiles_have_the_shape_of_the_whole() {
    let config = VaeConfig::from_json(Path::new("vae"), vae_json()).unwrap();
    let random: Weights<T> = Weights::new(RandomSource::new(5, DType::F32, NdDevice));
    let latents = wave(&[1, 4, 13, 21], 0.3);
    let kl = Vae::<Reference32>::load(&random, &config).unwrap();
    let tiny = TinyVaeConfig {
        encoder_channels: vec![8; 4],
        decoder_channels: vec![8; 4],
        ..TinyVaeConfig::default()
    };
    let tiny = Vae::<Reference32>::load(&random, &VaeConfig::Tiny(tiny)).unwrap();
    assert_eq!(kl.tiles(), TileOptions { size: 16, overlap: 0.25 });
    assert_eq!(tiny.tiles(), TileOptions { size: 512, overlap: 0.125 });
    for (vae, size) in [(&kl, 16), (&tiny, 64)] {
        let whole = vae.decode(&latents).unwrap();
        let tiles = TileOptions { size, overlap: vae.tiles().overlap };
        let tiled = vae.decode_tiled(&latents, &tiles).unwrap();
        assert_eq!(tiled.shape(), whole.shape());
        assert!(tiled.to_f32().unwrap().iter().all(|v| v.is_finite()));
        // The region that only the first tile reaches holds only what that tile decodes to.
        let side = size / vae.factor();
        let first = vae.decode(&latents.narrow(2, 0, side).unwrap().narrow(3, 0, side).unwrap()).unwrap();
        let corner = |image: &T| image.narrow(2, 0, size / 2).unwrap().narrow(3, 0, size / 2).unwrap();
        assert_eq!(corner(&tiled).to_f32().unwrap(), corner(&first).to_f32().unwrap());
        for overlap in [-0.1, 1.0, f64::NAN] {
            assert!(vae.decode_tiled(&latents, &TileOptions { size, overlap }).is_err());
        }
        assert!(vae.decode_tiled(&latents, &TileOptions { size: 1, overlap: 0.25 }).is_err());
    }
}

/// With the overlap of an autoencoder's own tiles, any tile size gives diffusers' picture.
#[test]
fn tiles_of_a_tiny_autoencoder_are_diffusers() {
    let open = || {
        let file = fixtures().join("tiny_tiles.safetensors");
        SafetensorsSource::open(&[file.into()], DType::F32, NdDevice).unwrap()
    };
    let source = open();
    let golden = |name: &str| -> T {
        source.tensor(name, &WeightSource::<T>::shape_of(&source, name).unwrap()).unwrap()
    };
    let config = TinyVaeConfig {
        encoder_channels: vec![4; 4],
        decoder_channels: vec![4; 4],
        ..TinyVaeConfig::default()
    };
    let vae = Vae::<Reference32>::load(&Weights::new(open()), &VaeConfig::Tiny(config)).unwrap();
    let (latents, image): (T, T) = (golden("latents"), golden("image"));
    let tiles = TileOptions { size: 64, ..vae.tiles() };
    close(&vae.decode_tiled(&latents, &tiles).unwrap(), &image, "tiles");
    let more = TileOptions { overlap: 0.25, ..tiles };
    assert!(distance(&vae.decode_tiled(&latents, &more).unwrap(), &image) > 1e-3);
    assert!(distance(&vae.decode(&latents).unwrap(), &image) > 1e-3);
}

#[test]
fn channel_statistics_are_restored() {
    let config = match VaeConfig::from_json(Path::new("vae"), vae_json()).unwrap() {
        VaeConfig::Kl(config) => config,
        VaeConfig::Tiny(_) => unreachable!(),
    };
    let statistics = Some((vec![1.0, 2.0, 3.0, 4.0], vec![0.5, 1.0, 2.0, 4.0]));
    let config = KlConfig { scaling_factor: 0.5, latent_statistics: statistics, ..config };
    let random: Weights<T> = Weights::new(RandomSource::new(5, DType::F32, NdDevice));
    let vae = Vae::<Reference32>::load(&random, &VaeConfig::Kl(config)).unwrap();
    let ones = T::full(1.0, &[1, 4, 1, 1], DType::F32, &NdDevice).unwrap();
    // latents · std / scale + mean
    assert_eq!(vae.unscale(&ones).unwrap().to_f32().unwrap(), [2.0, 4.0, 7.0, 12.0]);
    assert_eq!(vae.scale(&vae.unscale(&ones).unwrap()).unwrap().to_f32().unwrap(), [1.0; 4]);
}

#[test]
fn only_f16_needs_another_dtype_for_the_autoencoder() {
    let mut json = vae_json();
    for (force, expected) in [(true, DType::F32), (false, DType::F16)] {
        json["force_upcast"] = force.into();
        let config = VaeConfig::from_json(Path::new("vae"), json.clone()).unwrap();
        assert_eq!(Vae::<Reference32>::dtype_beside(&config, DType::F16), expected);
        assert_eq!(Vae::<Reference32>::dtype_beside(&config, DType::BF16), DType::BF16);
        let bf16 = if force { DType::F32 } else { DType::BF16 };
        let encoding =
            [DType::F16, DType::BF16, DType::F64].map(|d| Vae::<Reference32>::encoding_dtype(&config, d));
        assert_eq!(encoding, [expected, bf16, DType::F64]);
    }
}

#[test]
fn tiny_autoencoders_have_two_styles_of_names() {
    let config = TinyVaeConfig {
        encoder_channels: vec![4; 4],
        decoder_channels: vec![4; 4],
        ..TinyVaeConfig::default()
    };
    let (source, list) = Recorder::new(RandomSource::new(2, DType::F32, NdDevice));
    let diffusers: Weights<T> = Weights::new(source);
    let expected = Vae::<Reference32>::load(&diffusers, &VaeConfig::Tiny(config.clone())).unwrap();

    // The same values in the two files of the original, where the decoder's numbers are higher by one.
    let folder = tempfile::tempdir().unwrap();
    let files = ["encoder", "decoder"].map(|side| {
        let prefix = format!("{side}.layers.");
        let shift = usize::from(side == "decoder");
        let list = list.borrow();
        let own = list.iter().filter_map(|(name, shape)| {
            let (number, rest) = name.strip_prefix(&prefix)?.split_once('.')?;
            let values = atedm_sdxl::weights::random_values(2, name, shape);
            Some((format!("{}.{rest}", number.parse::<usize>().ok()? + shift), (shape.clone(), values)))
        });
        let path = folder.path().join(format!("taesdxl_{side}.safetensors"));
        support::write_tensors(&path, &own.collect(), safetensors::Dtype::F32);
        WeightFile { path, naming: Naming::Prefixed(format!("{side}.")) }
    });
    let original: Weights<T> = Weights::new(SafetensorsSource::open(&files, DType::F32, NdDevice).unwrap());
    let got = Vae::<Reference32>::load(&original, &VaeConfig::Tiny(config)).unwrap();
    let latents = wave(&[1, 4, 3, 2], 0.7);
    let image = got.decode(&latents).unwrap();
    assert_eq!(image.to_f32().unwrap(), expected.decode(&latents).unwrap().to_f32().unwrap());
    assert_eq!(
        got.encode(&image).unwrap().to_f32().unwrap(),
        expected.encode(&image).unwrap().to_f32().unwrap()
    );
}

/// With the real TAESDXL, a picture survives encoding and decoding.
#[test]
fn taesdxl() {
    let Ok(folder) = std::env::var("ATEDM_TAESDXL") else {
        eprintln!(
            "skipped: ATEDM_TAESDXL names no folder with taesdxl_encoder.safetensors and taesdxl_decoder.safetensors"
        );
        return;
    };
    let options = OpenOptions { vae: Some(folder.into()), ..OpenOptions::default() };
    let checkpoint = Checkpoint::open(fixtures().join("tiny-b"), options).unwrap();
    let vae = Vae::<Reference32>::load(&weights(&checkpoint, Part::Vae), checkpoint.vae()).unwrap();
    // A smooth picture: two gradients and a constant.
    let side = 64;
    let pixel = |i: usize| match i / (side * side) {
        0 => (i % side) as f32 / side as f32 * 1.6 - 0.8,
        1 => (i / side % side) as f32 / side as f32 * 1.6 - 0.8,
        _ => 0.2,
    };
    let values: Vec<f32> = (0..3 * side * side).map(pixel).collect();
    let picture = T::from_f32(&values, &[1, 3, side, side], DType::F32, &NdDevice).unwrap();
    let latents = vae.encode(&picture).unwrap();
    assert_eq!(latents.shape(), [1, 4, 8, 8]);
    let back = vae.decode(&latents).unwrap();
    let error = back.sub(&picture).unwrap().to_f32().unwrap();
    let mean_square = error.iter().map(|e| e * e).sum::<f32>() / error.len() as f32;
    // Values span 2, so this is a peak signal-to-noise ratio of 20 dB.
    assert!(mean_square < 0.04, "mean square error {mean_square}");
}

/// Special and added tokens from all files of a folder, in random cases of `tests/python/tokenizer_cases.py`.
#[test]
fn added_tokens_are_those_of_transformers() {
    let vocabulary = fixtures().join("tiny-a/tokenizer");
    let list = json(&fixtures().join("tokenizer-cases.json"));
    for case in list["cases"].as_array().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vocab.json", "merges.txt"] {
            std::fs::copy(vocabulary.join(name), folder.path().join(name)).unwrap();
        }
        for (name, content) in case["files"].as_object().unwrap() {
            std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        }
        let tokenizer = atedm_sdxl::tokenizer::ClipTokenizer::open(folder.path(), 77).unwrap();
        for (prompt, expected) in case["ids"].as_object().unwrap() {
            let got = tokenizer.encode(prompt).unwrap().ids;
            assert_eq!(Value::from(got), *expected, "{prompt:?} {}", case["files"]);
        }
    }
}
