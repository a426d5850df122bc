//! Compares architectures with the models that load them.

use std::collections::BTreeMap;
use std::path::Path;

use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{Backend, DType, Weights};

use super::*;
use crate::checkpoint::Part;
use crate::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use crate::text::TextEncoder;
use crate::vae::Vae;
use crate::weights::{RandomSource, Recorder};

pub(super) fn small() -> Architecture {
    Architecture {
        size: 16,
        context: 12,
        text: Text { channels: [8, 12], layers: [2, 3], heads: [2, 3], expansion: 4, projection: 10 },
        unet: UNet {
            channels: vec![8, 16, 16],
            layers: 2,
            depths: vec![0, 1, 2],
            head_channels: 4,
            groups: 4,
            size_channels: 2,
        },
        vae: Autoencoder {
            channels: vec![4, 8],
            layers: 2,
            groups: 2,
            latent_channels: 3,
            scaling_factor: 0.5,
            mid_attention: true,
        },
    }
}

type Shapes = BTreeMap<String, Vec<usize>>;

/// The parameters that our model of `part` requests when it loads.
fn asked(architecture: &Architecture, vocabulary: &Vocabulary, part: Part) -> Shapes {
    let (source, list) = Recorder::new(RandomSource::new(1, DType::F32, NdDevice));
    let weights: Weights<<Reference32 as Backend>::Tensor> = Weights::new(source);
    let (file, json) = (Path::new("config.json"), architecture.config(vocabulary, part));
    match part {
        Part::TextEncoder | Part::TextEncoder2 => {
            let config = TextEncoderConfig::from_json(file, json).unwrap();
            TextEncoder::<Reference32>::load(&weights, &config).map(drop).unwrap();
        }
        Part::UNet => {
            let config = UNetConfig::from_json(file, json).unwrap();
            crate::unet::UNet::<Reference32>::load(&weights, &config).map(drop).unwrap();
        }
        Part::Vae => {
            let config = VaeConfig::from_json(file, json).unwrap();
            Vae::<Reference32>::load(&weights, &config).map(drop).unwrap();
        }
    }
    let list = list.borrow();
    list.iter().cloned().collect()
}

#[test]
fn parameters_are_what_the_models_ask_for() {
    let vocabulary = Vocabulary::of_words(["red"]);
    let mut flat = small();
    flat.vae.mid_attention = false;
    flat.vae.channels = vec![4];
    flat.unet.depths = vec![1, 0, 1];
    for architecture in [small(), flat] {
        architecture.check().unwrap();
        for part in Part::ALL {
            let listed = architecture.parameters(&vocabulary, part);
            let shapes: Shapes = listed.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
            assert_eq!(shapes.len(), listed.len(), "{part:?}: a name twice");
            let asked = asked(&architecture, &vocabulary, part);
            for (name, shape) in &asked {
                assert_eq!(shapes.get(name), Some(shape), "{name}");
            }
            // only diffusers needs the first encoder's last layer and norm
            let unread = shapes.keys().filter(|name| !asked.contains_key(*name));
            let read_by_diffusers = |name: &&String| {
                name.starts_with("text_model.encoder.layers.1.") || name.contains("final_layer_norm")
            };
            match part {
                Part::TextEncoder => assert!(unread.clone().all(|name| read_by_diffusers(&name))),
                _ => assert_eq!(unread.collect::<Vec<_>>(), Vec::<&String>::new(), "{part:?}"),
            }
        }
        let json = architecture.config(&vocabulary, Part::UNet);
        let formula = UNetConfig::from_json(Path::new("config.json"), json).unwrap().parameters();
        let counted: usize =
            architecture.parameters(&vocabulary, Part::UNet).iter().map(Parameter::count).sum();
        assert_eq!(counted as u64, formula);
    }
}

#[test]
fn roles_follow_the_names() {
    let vocabulary = Vocabulary::of_words([]);
    for part in Part::ALL {
        for Parameter { name, shape, role } in small().parameters(&vocabulary, part) {
            let expected = match shape.len() {
                1 if name.ends_with(".bias") => Role::Bias,
                1 => Role::Scale,
                _ if name.contains("_embedding.weight") => Role::Embedding,
                _ => Role::Weight,
            };
            assert_eq!(role, expected, "{name}");
        }
    }
}

#[test]
fn sizes_reach_the_configurations() {
    let vocabulary = Vocabulary::of_words(["red"]);
    let architecture = small();
    assert_eq!((architecture.factor(), architecture.latent_size()), (2, 8));
    let file = Path::new("config.json");
    let unet = UNetConfig::from_json(file, architecture.config(&vocabulary, Part::UNet)).unwrap();
    assert_eq!(
        unet.down.iter().map(|stage| stage.attention.is_some()).collect::<Vec<_>>(),
        [false, true, true]
    );
    assert_eq!((unet.sample_size, unet.text_channels(), unet.added_channels), (Some(8), 20, 22));
    assert_eq!(unet.mid.unwrap().attention, Some(2));
    let text =
        TextEncoderConfig::from_json(file, architecture.config(&vocabulary, Part::TextEncoder2)).unwrap();
    assert_eq!((text.vocabulary, text.end_token as usize), (vocabulary.len(), vocabulary.len() - 1));
    assert_eq!((text.feed_forward, text.projection, text.context), (48, Some(10), 12));
}

#[test]
fn wrong_numbers_are_named() {
    let wrong = |change: &dyn Fn(&mut Architecture)| {
        let mut architecture = small();
        change(&mut architecture);
        architecture.check().unwrap_err().to_string()
    };
    let starts = [
        (wrong(&|a| a.size = 20), "size: expected a multiple of 8"),
        (wrong(&|a| a.size = 0), "size: expected a whole number from 1"),
        (wrong(&|a| a.context = 2), "context: expected a whole number from 3"),
        (wrong(&|a| a.text.heads = [2, 5]), "text.heads: 5 does not divide 12 channels"),
        (wrong(&|a| a.text.heads = [0, 1]), "text.heads: expected a whole number from 1"),
        (wrong(&|a| a.text.layers = [2, 0]), "text.layers: expected a whole number from 1"),
        (wrong(&|a| a.text.projection = 0), "text.projection: expected a whole number from 1"),
        (wrong(&|a| a.unet.channels = vec![8]), "unet.channels: expected 2 to 8 levels, got 1"),
        (wrong(&|a| a.unet.channels[1] = 18), "unet.groups: 4 does not divide 18 channels"),
        (wrong(&|a| a.unet.depths = vec![1, 1]), "unet.depths: expected one number for each of 3 levels"),
        (wrong(&|a| a.unet.depths[2] = 0), "unet.depths: expected at least 1 at the last level"),
        (wrong(&|a| a.unet.head_channels = 3), "unet.head_channels: 3 does not divide 16 channels"),
        (wrong(&|a| a.unet.head_channels = 0), "unet.head_channels: expected a whole number from 1"),
        (wrong(&|a| a.unet.groups = 0), "unet.groups: expected a whole number from 1"),
        (wrong(&|a| a.unet.size_channels = 3), "unet.size_channels: expected an even number"),
        (wrong(&|a| a.vae.channels = vec![]), "vae.channels: expected 1 to 8 levels, got 0"),
        (wrong(&|a| a.vae.groups = 3), "vae.groups: 3 does not divide 4 channels"),
        (wrong(&|a| a.vae.latent_channels = 0), "vae.latent_channels: expected a whole number from 1"),
        (wrong(&|a| a.vae.scaling_factor = f64::NAN), "vae.scaling_factor: expected a number above 0"),
    ];
    for (message, start) in starts {
        assert!(message.starts_with(start), "{message}");
    }
}

#[test]
fn tables_hold_every_field_and_no_other() {
    let value = serde_json::to_value(small()).unwrap();
    assert_eq!(serde_json::from_value::<Architecture>(value.clone()).unwrap(), small());
    let mut short = value.clone();
    short["text"].as_object_mut().unwrap().remove("expansion");
    short["vae"].as_object_mut().unwrap().remove("mid_attention");
    assert_eq!(serde_json::from_value::<Architecture>(short).unwrap(), small());
    let mut more = value;
    more["unet"]["dephts"] = 1.into();
    assert!(serde_json::from_value::<Architecture>(more).unwrap_err().to_string().contains("dephts"));
}
