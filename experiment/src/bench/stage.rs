//! The U-Net on one backend, the inputs of an evaluation, and one evaluation of it.

use atedm_core::backend::DeviceOf;
use atedm_core::plugin::{Branch, Grid, Row, Step, TokenReducer};
use atedm_core::{Backend, DType, Result, Tensor, Weights};
use atedm_sdxl::checkpoint::Part;
use atedm_sdxl::rng::{NoiseSource, TorchRng};
use atedm_sdxl::unet::{UNet, UNetInput};
use atedm_sdxl::weights::RandomSource;

use crate::failure::{Failure, Outcome};
use crate::method::Workload;
use crate::model::Model;
use crate::subject::Subject;

/// Seed of generated weights and inputs.
const SEED: u64 = 1;

/// A U-Net with everything that an evaluation needs.
pub(super) struct Bench<B: Backend> {
    unet: UNet<B>,
    pub(super) device: DeviceOf<B>,
    pub(super) dtype: DType,
    all: Inputs<B::Tensor>,
    /// The negative rows of a guided batch.
    negative: Option<Inputs<B::Tensor>>,
}

/// What an evaluation is made from.
struct Inputs<T> {
    latents: T,
    text: T,
    pooled: T,
    guidance: Option<T>,
    time_ids: Vec<[f32; 6]>,
    rows: Vec<Row>,
}

impl<T: Tensor> Inputs<T> {
    /// The first `count` rows.
    fn first(&self, count: usize) -> Result<Self> {
        let first = |tensor: &T| tensor.narrow(0, 0, count);
        Ok(Self {
            latents: first(&self.latents)?,
            text: first(&self.text)?,
            pooled: first(&self.pooled)?,
            guidance: self.guidance.as_ref().map(first).transpose()?,
            time_ids: self.time_ids.iter().take(count).copied().collect(),
            rows: self.rows.iter().take(count).copied().collect(),
        })
    }
}

/// The rows of a batch of `images` guided images, as a pipeline orders them.
fn guided_rows(images: usize) -> Vec<Row> {
    let of = |branch| (0..images as u64).map(move |image| Row { image, branch });
    of(Branch::Uncond).chain(of(Branch::Cond)).collect()
}

impl<B: Backend> Bench<B> {
    /// The model's weights, or generated ones, and `batch` rows of noise for inputs. A guided batch has two rows an image.
    pub(super) fn new(
        subject: &Subject,
        model: Option<&Model>,
        batch: usize,
        work: &Workload<'_>,
        device: &DeviceOf<B>,
        dtype: DType,
    ) -> Outcome<Self> {
        let config = &subject.unet;
        let weights = match model {
            Some(model) => {
                model.checkpoint.weights::<B::Tensor>(Part::UNet, dtype, device).map_err(Failure::run)?
            }
            None => Weights::new(RandomSource::new(SEED, dtype, device.clone())),
        };
        let unet = UNet::<B>::load(&weights, config).map_err(Failure::run)?;
        let mut noise = TorchRng::new(SEED);
        let mut draw = |shape: &[usize]| {
            let values = noise.standard_normal(shape)?;
            B::Tensor::from_f32(&values, shape, dtype, device)
        };
        let Grid { height, width, .. } = work.latents;
        let (down, across) = (subject.size.height as f32, subject.size.width as f32);
        let guidance = config.guidance_channels.map(|channels| draw(&[batch, channels])).transpose()?;
        let all = Inputs {
            latents: draw(&[batch, config.in_channels, height, width])?,
            text: draw(&[batch, subject.text, config.text_channels()])?,
            pooled: draw(&[batch, config.pooled_channels()])?,
            guidance,
            time_ids: vec![[down, across, 0.0, 0.0, down, across]; batch],
            rows: if work.guided { guided_rows(batch / 2) } else { Row::singles(batch) },
        };
        let negative = work.guided.then(|| all.first(batch / 2)).transpose()?;
        Ok(Self { unet, device: device.clone(), dtype, all, negative })
    }

    /// The rows of a run.
    pub(super) fn rows(&self) -> &[Row] {
        &self.all.rows
    }

    /// One evaluation at `step`, on the negative rows alone if the reducer wants no guidance.
    pub(super) fn evaluate(
        &self,
        reducer: &mut dyn TokenReducer<B::Tensor>,
        step: &Step,
    ) -> Result<B::Tensor> {
        let inputs = match &self.negative {
            Some(negative) if !reducer.wants_guidance(step) => negative,
            _ => &self.all,
        };
        let input = UNetInput {
            latents: &inputs.latents,
            timesteps: &vec![step.timestep; inputs.rows.len()],
            text: &inputs.text,
            pooled: &inputs.pooled,
            time_ids: &inputs.time_ids,
            timestep_cond: inputs.guidance.as_ref(),
            step,
            rows: &inputs.rows,
            control: None,
        };
        B::inference(|| {
            reducer.begin_step(step, &inputs.rows)?;
            let prediction = self.unet.forward(&input, reducer)?;
            reducer.end_step(&prediction)?;
            Ok(prediction)
        })
    }
}

#[cfg(test)]
mod tests {
    use atedm_core::reference::{NdDevice, NdTensor, Reference32};
    use atedm_sdxl::config::UNetConfig;

    use super::*;
    use crate::bench::RaceOptions;
    use crate::model::Size;

    /// SD-XL's U-Net with a tenth of its channels and one layer in each block.
    fn small() -> UNetConfig {
        let mut unet = UNetConfig::sdxl_base();
        let (heads, one) = (|channels: usize| channels / 32, |depths: Vec<usize>| vec![1; depths.len()]);
        for stage in &mut unet.down {
            (stage.in_channels, stage.channels) = (stage.in_channels / 10, stage.channels / 10);
            (stage.heads, stage.text_channels) = (heads(stage.channels), 16);
            stage.attention = stage.attention.take().map(one);
        }
        if let Some(mid) = &mut unet.mid {
            (mid.channels, mid.text_channels, mid.attention) = (mid.channels / 10, 16, Some(1));
            mid.heads = heads(mid.channels);
        }
        for stage in &mut unet.up {
            stage.previous_channels /= 10;
            (stage.skip_channels, stage.channels) = (stage.skip_channels / 10, stage.channels / 10);
            (stage.heads, stage.text_channels) = (heads(stage.channels), 16);
            stage.attention = stage.attention.take().map(one);
        }
        (unet.time_channels, unet.size_channels, unet.added_channels) = (32, 4, 32);
        unet
    }

    /// Notes the rows of every step; guidance ends at step 1.
    #[derive(Default)]
    struct EndsGuidance(Vec<Vec<Row>>);

    impl TokenReducer<NdTensor> for EndsGuidance {
        fn wants_guidance(&mut self, step: &Step) -> bool {
            step.index < 1
        }

        fn begin_step(&mut self, _: &Step, rows: &[Row]) -> Result<()> {
            self.0.push(rows.to_vec());
            Ok(())
        }
    }

    /// The rows of a step with guidance and of one without, in a race with this batch.
    fn rows(batch: usize) -> [Vec<Row>; 2] {
        let mut subject = Subject::sdxl_base();
        (subject.unet, subject.size) = (small(), Size { width: 64, height: 64 });
        let options = RaceOptions { batch, repeats: 1, steps: 2, unfused: false };
        let work = options.workload(&subject);
        let bench = Bench::<Reference32>::new(&subject, None, batch, &work, &NdDevice, DType::F32).unwrap();
        let mut reducer = EndsGuidance::default();
        let evaluated = [0, 1].map(|index| {
            let step = Step { index, total: 2, evaluation: index, sigma: 1.0, timestep: 999.0 };
            bench.evaluate(&mut reducer, &step).unwrap().shape()
        });
        let rows = [reducer.0[0].clone(), reducer.0[1].clone()];
        assert_eq!(evaluated, [0, 1].map(|index| vec![rows[index].len(), 4, 8, 8]));
        rows
    }

    #[test]
    fn a_step_without_guidance_runs_on_the_negative_rows() {
        let negative = vec![Row { image: 0, branch: Branch::Uncond }];
        let both = [negative.clone(), vec![Row { image: 0, branch: Branch::Cond }]].concat();
        assert_eq!(rows(2), [both, negative]);
    }

    #[test]
    fn an_odd_batch_has_no_guidance_to_end() {
        assert_eq!(rows(1), [Row::singles(1), Row::singles(1)]);
    }
}
