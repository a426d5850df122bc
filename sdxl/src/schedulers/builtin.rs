//! The samplers of this crate under their names.

use std::sync::Arc;

use atedm_core::{Result, Tensor};

use super::ancestral::EulerAncestral;
use super::config::SchedulerConfig;
use super::ddim::Ddim;
use super::ddpm::Ddpm;
use super::dpm::DpmMultistep;
use super::euler::Euler;
use super::heun::Heun;
use super::kinds::{DpmAlgorithm, Levels, Spacing};
use super::lcm::Lcm;
use super::lms::Lms;
use super::sampler::Sampler;
use super::singlestep::DpmSinglestep;
use super::tcd::Tcd;
use super::unipc::UniPc;

/// Makes a sampler for a checkpoint's config and a number of steps.
pub(super) type Builder<T> =
    Arc<dyn Fn(&SchedulerConfig, usize) -> Result<Box<dyn Sampler<T>>> + Send + Sync>;

/// Endings of names, with the noise levels that they choose.
pub(super) const ENDINGS: [(&str, Levels); 3] =
    [("-karras", Levels::Karras), ("-exponential", Levels::Exponential), ("-beta", Levels::Beta)];

type Entry<T> = (String, Builder<T>);

/// The names that users type. Where several schedules of noise levels fit, the plain name takes the training levels of the
/// checkpoint, and the names with an ending take others.
pub(super) fn names<T: Tensor>() -> Vec<Entry<T>> {
    let mut entries = vec![
        over_betas("euler-trailing", |config, steps| {
            Euler::new(&trailing(config).with_levels(Levels::Training), steps)
        }),
        over_betas("euler-sgm", Euler::sgm),
        over_betas("euler-a", EulerAncestral::new),
        over_betas("ddim", |config, steps| Ddim::new(&config.unclipped("DDIMScheduler"), steps)),
        over_betas("ddim-trailing", |config, steps| {
            Ddim::new(&trailing(config).unclipped("DDIMScheduler"), steps)
        }),
        over_betas("ddpm", |config, steps| Ddpm::new(&config.unclipped("DDPMScheduler"), steps)),
        over_betas("lcm", Lcm::new),
        over_betas("tcd", Tcd::new),
        entry("edm-euler", Euler::edm),
        entry("edm-dpm++2m", DpmMultistep::edm),
    ];
    for (ending, levels) in [("", Levels::Training)].into_iter().chain(ENDINGS) {
        let with = move |config: &SchedulerConfig| config.with_levels(levels);
        let ode =
            move |config: &SchedulerConfig| SchedulerConfig { algorithm: DpmAlgorithm::Ode, ..with(config) };
        let sde =
            move |config: &SchedulerConfig| SchedulerConfig { algorithm: DpmAlgorithm::Sde, ..with(config) };
        entries.extend([
            over_betas(&format!("euler{ending}"), move |config, steps| Euler::new(&with(config), steps)),
            over_betas(&format!("heun{ending}"), move |config, steps| Heun::new(&with(config), steps)),
            over_betas(&format!("lms{ending}"), move |config, steps| Lms::new(&with(config), steps)),
            over_betas(&format!("unipc{ending}"), move |config, steps| UniPc::new(&with(config), steps)),
            over_betas(&format!("dpm++2m{ending}"), move |config, steps| {
                DpmMultistep::new(&ode(config), steps)
            }),
            over_betas(&format!("dpm++2m-sde{ending}"), move |config, steps| {
                DpmMultistep::new(&sde(config), steps)
            }),
            over_betas(&format!("dpm++2s{ending}"), move |config, steps| {
                DpmSinglestep::new(&ode(config), steps)
            }),
            over_betas(&format!("dpm++sde{ending}"), move |config, steps| {
                DpmSinglestep::new(&sde(config), steps)
            }),
        ]);
    }
    entries
}

/// The config with steps that begin at the last training timestep.
fn trailing(config: &SchedulerConfig) -> SchedulerConfig {
    SchedulerConfig { spacing: Some(Spacing::Trailing), ..config.clone() }
}

/// diffusers' classes, with every field as the config has it.
pub(super) fn classes<T: Tensor>() -> [Entry<T>; 13] {
    [
        over_betas("EulerDiscreteScheduler", Euler::new),
        over_betas("EulerAncestralDiscreteScheduler", EulerAncestral::new),
        over_betas("HeunDiscreteScheduler", Heun::new),
        over_betas("LMSDiscreteScheduler", Lms::new),
        over_betas("DDIMScheduler", |config, steps| Ddim::new(&config.unclipped("DDIMScheduler"), steps)),
        over_betas("DDPMScheduler", |config, steps| Ddpm::new(&config.unclipped("DDPMScheduler"), steps)),
        over_betas("DPMSolverMultistepScheduler", DpmMultistep::new),
        over_betas("DPMSolverSinglestepScheduler", DpmSinglestep::new),
        over_betas("UniPCMultistepScheduler", UniPc::new),
        over_betas("LCMScheduler", Lcm::new),
        over_betas("TCDScheduler", Tcd::new),
        entry("EDMEulerScheduler", Euler::edm),
        entry("EDMDPMSolverMultistepScheduler", DpmMultistep::edm),
    ]
}

/// A sampler of U-Nets that were trained over betas; others are refused.
fn over_betas<T: Tensor, S: Sampler<T> + 'static>(
    name: &str,
    build: impl Fn(&SchedulerConfig, usize) -> Result<S> + Send + Sync + 'static,
) -> Entry<T> {
    entry(name, move |config, steps| {
        config.expect_betas()?;
        build(config, steps)
    })
}

fn entry<T: Tensor, S: Sampler<T> + 'static>(
    name: &str,
    build: impl Fn(&SchedulerConfig, usize) -> Result<S> + Send + Sync + 'static,
) -> Entry<T> {
    let builder = move |config: &SchedulerConfig, steps: usize| -> Result<Box<dyn Sampler<T>>> {
        Ok(Box::new(build(config, steps)?))
    };
    (name.to_string(), Arc::new(builder))
}
