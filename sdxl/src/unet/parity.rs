//! Compares the U-Net's parts with diffusers' outputs, module by module (tests/fixtures/README.md).

use std::path::{Path, PathBuf};

use atedm_conformance::tolerance::relative_l2;
use atedm_core::plugin::{Action, Branch, Event, Row, Site, Step, Sublayer, TokenReducer, Unpruned};
use atedm_core::plugin::{BlockId, Grid, Stage};
use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{Backend, DType, GraphRequest, NnOps, Result, Tensor, WeightSource, Weights};
use serde_json::Value;

use super::context::ForwardContext;
use super::embedding::sinusoids;
use super::transformer::{Transformer, TransformerShape};
use super::{UNet, UNetConfig, UNetInput};
use crate::layers::{Conv2d, ConvShape, Resnet, ResnetShape, downsampling};
use crate::weights::SafetensorsSource;

type T = <Reference32 as Backend>::Tensor;

/// Largest relative L2 distance from diffusers, in f32.
const MODULE: f64 = 2e-6;
/// The same limit for a whole U-Net.
const UNET: f64 = 2e-5;

/// A checkpoint of the golden files, with the outputs of its modules.
struct Golden {
    folder: PathBuf,
    tensors: SafetensorsSource<NdDevice>,
    paths: Value,
    config: UNetConfig,
}

impl Golden {
    fn open(name: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let expected = fixtures.join(format!("{name}-expected"));
        assert!(
            expected.exists(),
            "{} is missing: golden files come with the repository only",
            expected.display()
        );
        let tensors = [expected.join("modules.safetensors").into()];
        let paths: Value =
            serde_json::from_slice(&std::fs::read(expected.join("modules.json")).unwrap()).unwrap();
        Self {
            tensors: SafetensorsSource::open(&tensors, DType::F32, NdDevice).unwrap(),
            paths: paths["modules"].clone(),
            config: UNetConfig::read(&fixtures.join(name).join("unet/config.json")).unwrap(),
            folder: fixtures.join(name),
        }
    }

    fn tensor(&self, name: &str) -> T {
        let shape = WeightSource::<T>::shape_of(&self.tensors, name).unwrap_or_else(|| panic!("no {name}"));
        self.tensors.tensor(name, &shape).unwrap()
    }

    fn weights(&self) -> Weights<T> {
        let file = self.folder.join("unet/diffusion_pytorch_model.safetensors");
        Weights::new(SafetensorsSource::open(&[file.into()], DType::F32, NdDevice).unwrap())
    }

    /// The weights of a module by its role in `modules.json`.
    fn module(&self, role: &str) -> Weights<T> {
        self.weights().scope(self.paths[role].as_str().unwrap())
    }

    #[track_caller]
    fn check(&self, got: &T, name: &str, most: f64) {
        let expected = self.tensor(name);
        assert_eq!(got.shape(), expected.shape(), "{name}");
        let distance = relative_l2(&got.to_f32().unwrap(), &expected.to_f32().unwrap());
        assert!(distance <= most, "{name}: {distance:e} from diffusers");
    }
}

/// Runs a check on both checkpoints.
fn on_both(check: impl Fn(&Golden)) {
    ["tiny-a", "tiny-b"].iter().for_each(|name| check(&Golden::open(name)));
}

const ROWS: [Row; 2] = [Row { image: 0, branch: Branch::Uncond }, Row { image: 0, branch: Branch::Cond }];
const STEP: Step = Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 };

#[test]
fn embeddings() {
    on_both(|golden| {
        let config = &golden.config;
        let base = config.base_channels();
        let timesteps = golden.tensor("time.timesteps").to_f32().unwrap();
        let waves = sinusoids(&timesteps, base, config);
        let waves = T::from_f32(&waves, &[timesteps.len(), base], DType::F32, &NdDevice).unwrap();
        golden.check(&waves, "time.sinusoid", MODULE);

        let ids = golden.tensor("added.time_ids").to_f32().unwrap();
        let waves = sinusoids(&ids, config.size_channels, config);
        let waves = T::from_f32(&waves, &[2, 6 * config.size_channels], DType::F32, &NdDevice).unwrap();
        golden.check(&waves, "added.sinusoid", MODULE);

        // The whole conditioning vector, after the resnets' SiLU.
        let embedding = super::embedding::Embedding::load(&golden.weights(), config).unwrap();
        let ids: Vec<[f32; 6]> = ids.chunks_exact(6).map(|row| row.try_into().unwrap()).collect();
        let (text, pooled) = (golden.tensor("transformer.context"), golden.tensor("added.text_embeds"));
        let sample = golden.tensor("unet.a.sample");
        for (i, timestep) in timesteps.iter().enumerate() {
            let input = UNetInput {
                latents: &sample,
                timesteps: &[f64::from(*timestep); ROWS.len()],
                text: &text,
                pooled: &pooled,
                time_ids: &ids,
                timestep_cond: None,
                step: &STEP,
                rows: &ROWS,
                control: None,
            };
            let got = embedding.forward(config, &input.conditions()).unwrap().to_f32().unwrap();
            let time = golden.tensor("time.embedding").narrow(0, i, 1).unwrap();
            let sum = golden.tensor("added.embedding").add(&time).unwrap().silu().unwrap();
            let distance = relative_l2(&got, &sum.to_f32().unwrap());
            assert!(distance <= MODULE, "timestep {timestep}: {distance:e} from diffusers");
        }
    });
}

#[test]
fn resnet_and_resizing() {
    on_both(|golden| {
        let (input, output) = (golden.tensor("resnet.input"), golden.tensor("resnet.output"));
        let shape = ResnetShape {
            inputs: input.shape()[1],
            outputs: output.shape()[1],
            time: Some(golden.config.time_channels),
            groups: golden.config.norm_groups,
            epsilon: golden.config.norm_epsilon,
            scale: 1.0,
        };
        let resnet = Resnet::load(&golden.module("resnet"), shape).unwrap();
        let embedding = golden.tensor("resnet.embedding").silu().unwrap();
        golden.check(&resnet.forward(&input, Some(&embedding)).unwrap(), "resnet.output", MODULE);

        let input = golden.tensor("downsample.even.input");
        let shape = ConvShape::halving(input.shape()[1], downsampling(golden.config.downsample_padding));
        let conv = Conv2d::load(&golden.module("downsample").scope("conv"), shape).unwrap();
        for kind in ["even", "odd"] {
            let input = golden.tensor(&format!("downsample.{kind}.input"));
            golden.check(&conv.forward(&input).unwrap(), &format!("downsample.{kind}.output"), MODULE);
        }

        let input = golden.tensor("upsample.input");
        let channels = input.shape()[1];
        let shape = ConvShape::same(channels, channels, 3);
        let conv = Conv2d::load(&golden.module("upsample").scope("conv"), shape).unwrap();
        for (name, height, width) in [("double", 10, 6), ("9x5", 9, 5), ("9x6", 9, 6)] {
            let larger = input.upsample_nearest(height, width).unwrap();
            golden.check(&conv.forward(&larger).unwrap(), &format!("upsample.{name}.output"), MODULE);
        }
    });
}

/// Stores the maps of a block's first layer.
#[derive(Debug, Default)]
struct Maps {
    own: Option<T>,
    cross: Option<T>,
}

impl TokenReducer<T> for Maps {
    fn wants(&mut self, _site: &Site<'_>, _sub: Sublayer) -> Result<GraphRequest<T>> {
        Ok(GraphRequest::Lazy)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        if let Event::Attended { sub, graph: Some(graph), .. } = event
            && site.layer == 0
        {
            let map = Some(graph.to_dense()?);
            if sub == Sublayer::SelfAttention { self.own = map } else { self.cross = map }
        }
        Ok(Action::Continue)
    }
}

#[test]
fn transformer() {
    on_both(|golden| {
        let (input, text) = (golden.tensor("transformer.input"), golden.tensor("transformer.context"));
        let embedding = golden.tensor("resnet.embedding");
        let stage = golden.config.down.last().unwrap();
        let depths = stage.attention.clone().unwrap();
        let block = BlockId { stage: Stage::Down, stage_index: 1, index: 0, count: depths.len(), level: 1 };
        let shape = TransformerShape {
            block,
            channels: stage.channels,
            heads: stage.heads,
            text_channels: stage.text_channels,
            depth: depths[0],
            groups: golden.config.norm_groups,
            linear: golden.config.linear_projection,
        };
        let run = |depth: usize, reducer: &mut dyn TokenReducer<T>, layer: bool| {
            let shape = TransformerShape { depth, ..shape };
            let transformer = Transformer::load(&golden.module("transformer"), shape).unwrap();
            let watch = &mut |_: std::fmt::Arguments<'_>, _: &T| Ok(());
            let (emb, text) = (&embedding, &text);
            let mut context = ForwardContext { emb, text, step: &STEP, rows: &ROWS, reducer, watch };
            if layer {
                let grid = Grid::new(6, 5);
                transformer.run(golden.tensor("transformer.layer0.input"), grid, &mut context).unwrap()
            } else {
                transformer.forward(input.clone(), &mut context).unwrap()
            }
        };
        golden.check(&run(depths[0], &mut Unpruned, false), "transformer.output", MODULE);
        let mut maps = Maps::default();
        golden.check(&run(1, &mut maps, true), "transformer.layer0.output", MODULE);
        golden.check(&maps.own.unwrap(), "transformer.layer0.self.map", MODULE);
        golden.check(&maps.cross.unwrap(), "transformer.layer0.cross.map", MODULE);
    });
}

#[test]
fn whole_unet() {
    on_both(|golden| {
        let unet = UNet::<Reference32>::load(&golden.weights(), &golden.config).unwrap();
        let (text, pooled) = (golden.tensor("transformer.context"), golden.tensor("added.text_embeds"));
        let ids = golden.tensor("added.time_ids").to_f32().unwrap();
        let ids: Vec<[f32; 6]> = ids.chunks_exact(6).map(|row| row.try_into().unwrap()).collect();
        for size in ["a", "b"] {
            let timestep = golden.tensor(&format!("unet.{size}.timestep")).to_f32().unwrap()[0];
            let input = UNetInput {
                latents: &golden.tensor(&format!("unet.{size}.sample")),
                timesteps: &[f64::from(timestep); ROWS.len()],
                text: &text,
                pooled: &pooled,
                time_ids: &ids,
                timestep_cond: None,
                step: &STEP,
                rows: &ROWS,
                control: None,
            };
            let output = unet.forward(&input, &mut Unpruned).unwrap();
            golden.check(&output, &format!("unet.{size}.output"), UNET);

            let short = T::full(0.0, &[2, 3, 8, 8], DType::F32, &NdDevice).unwrap();
            let wrong = [
                UNetInput { latents: &short, ..input },
                UNetInput { text: &pooled, ..input },
                UNetInput { pooled: &text, ..input },
                UNetInput { time_ids: &ids[..1], ..input },
                UNetInput { rows: &ROWS[..1], ..input },
            ];
            for input in wrong {
                let error = unet.forward(&input, &mut Unpruned).unwrap_err().to_string();
                assert!(error.starts_with("U-Net "), "{error}");
            }
            let guidance = UNetInput { timestep_cond: Some(&pooled), ..input };
            let error = unet.forward(&guidance, &mut Unpruned).unwrap_err().to_string();
            assert!(error.starts_with("timestep_cond: "), "{error}");
        }
    });
}
