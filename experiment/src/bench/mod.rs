//! `atedm bench`: the U-Net at its real size, whole and under each method, timed in turns in one process.
//!
//! # How it is timed
//! - A round runs the full model once, and every method once at each kind of step of its schedule (prune-less, normal, and
//!   where kept sets serve several steps with and without scoring anew). Medians over the rounds are shown, and the mean
//!   over the schedule weighs each kind by its number of steps. Where the first time that a block scores costs more, it
//!   is timed once before the rounds, and weighed too.
//! - A batch of an even number of rows is one of guided images, with two rows each, unless the U-Net takes the guidance scale
//!   as an input. A step at which a method has ended guidance is a kind of its own, timed on the negative half of the rows.
//! - Phases are booked by wrappings of the method and its parts, on one clock; the model knows nothing of it. On a
//!   GPU that means waiting at every change of phase, so there the phases come from one more round whose total is not used.
//! - A vote cast inside attention's forward pass is scoring: its price is what the request adds to that attention, timed apart.

mod clock;
mod contender;
mod figures;
pub mod machine;
mod overlap;
mod plan;
mod report;
mod stage;
mod timed;
mod votes;

use atedm_core::reference::NdTensor;
use atedm_core::{Backend, DeviceOf};

use crate::extension::{Extension, registry};
use crate::failure::Outcome;
use crate::listener::Listener;
use crate::method::{GUIDANCE_SCALE, Workload};
use crate::model::Model;
use crate::platform::Platform;
use crate::spec::PruneSpec;
use crate::subject::{Costed, Subject};
use clock::{Detail, SharedClock};
use contender::{Conditions, Contender};
use figures::Figures;
use stage::Bench;
use votes::Prices;

pub use report::Report;

/// A method, checked before any weights are made. On made-up weights (without a `model`) scores converge otherwise than on
/// real ones: there, rules that stop a method's work early are left out, unless `spec` sets one.
///
/// # Errors
/// What is wrong with the method's options.
pub fn contestant(
    spec: &PruneSpec,
    model: Option<&Model>,
    work: &Workload<'_>,
    extension: &impl Extension,
    listener: &dyn Listener,
) -> Outcome<Costed> {
    let registry = registry::<NdTensor>(extension)?;
    let mut costed = Costed::new(spec, work, registry.catalogue())?;
    costed.method.remarks().iter().for_each(|remark| listener.warning(remark));
    let ends = |index: usize| !costed.method.wants_guidance(index, work.steps);
    if !work.guided
        && work.unet.is_guided(GUIDANCE_SCALE)
        && let Some(step) = (0..work.steps).find(|&index| ends(index))
    {
        listener.warning(&format!(
            "{}: it ends guidance at step {step}, which only a batch of an even number of rows shows",
            costed.label
        ));
    }
    if model.is_none() && !spec.options.contains_key("epsilon") {
        costed.method = costed.method.without_early_stop();
    }
    costed.method.check(&registry)?;
    Ok(costed)
}

/// What is timed, how often and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaceOptions {
    /// Rows of one U-Net evaluation.
    pub batch: usize,
    /// Rounds; each runs the full model and every method once.
    pub repeats: usize,
    /// Denoising steps of the schedule that the mean is taken over.
    pub steps: usize,
    /// Whether every attention map is stored, in the full model too.
    pub unfused: bool,
}

impl RaceOptions {
    /// What counts and costs depend on in a race of these options.
    pub fn workload<'a>(&self, subject: &'a Subject) -> Workload<'a> {
        let work = subject.workload(self.steps);
        Workload { guided: work.guided && self.batch.is_multiple_of(2), ..work }
    }
}

/// The full model and methods, timed in turns.
pub struct Race<'a, E> {
    /// How.
    pub options: RaceOptions,
    /// Where methods are registered.
    pub extension: &'a E,
    /// The U-Net.
    pub subject: &'a Subject,
    /// Where its weights are; they are generated without it.
    pub model: Option<&'a Model>,
    /// The methods, from [`contestant`] for the [workload](RaceOptions::workload) of `options`.
    pub methods: Vec<Costed>,
    /// What computes.
    pub platform: &'a Platform,
    /// Who hears how it gets on.
    pub listener: &'a dyn Listener,
    /// Called before each round, to take turns with another program.
    pub before_round: &'a mut dyn FnMut() -> Outcome,
}

impl<E: Extension> Race<'_, E> {
    /// Runs it.
    ///
    /// # Errors
    /// What reading the weights, the backend, a method or `before_round` reports.
    pub fn run<B: Backend>(self, device: &DeviceOf<B>) -> Outcome<Report> {
        let Self { options, extension, subject, model, methods, platform, listener, before_round } = self;
        let dtype = platform.dtype;
        let say = |words: String| listener.note(&words);
        let work = options.workload(subject);
        let blocks = work.blocks();
        let of_clock = device.clone();
        let clock = SharedClock::new(Box::new(move || B::synchronize(&of_clock)));
        let host = platform.is_cpu();
        let conditions = Conditions { unfused: options.unfused, host_memory: host };
        let mut contenders = Vec::with_capacity(1 + methods.len());
        let mut full = contestant(&PruneSpec::new("none"), model, &work, extension, listener)?;
        full.label = "full".into();
        for costed in std::iter::once(full).chain(methods) {
            contenders.push(Contender::<B::Tensor>::new(costed, &work, extension, &clock, conditions)?);
        }
        let detail = if host { Detail::Phases } else { Detail::Total };
        say(format!("loading {}", subject.name));
        let bench = Bench::<B>::new(subject, model, options.batch, &work, device, dtype)?;
        for contender in &mut contenders {
            say(format!("warming up: {}", contender.costed.label));
            contender.warm_up(&bench, detail)?;
        }
        let racers = contenders.len();
        say("ready".into());
        for round in 1..=options.repeats {
            before_round()?;
            // another one is first in each round: what comes first may find the machine in another state
            let (later, first) = contenders.split_at_mut(round % racers);
            for contender in first.iter_mut().chain(later) {
                contender.round(&bench, detail, conditions)?;
            }
            let seconds: Vec<String> = contenders.iter().map(Contender::last_round).collect();
            say(format!("round {round} of {}: {}", options.repeats, seconds.join(", ")));
        }
        if !host {
            for contender in &mut contenders {
                contender.round(&bench, Detail::Phases, conditions)?;
            }
        }
        let asked = contenders.iter().flat_map(|contender| &contender.samples);
        let asked: Vec<timed::Asked> = asked.flat_map(|(_, measured)| measured.asked.clone()).collect();
        let prices = Prices::measure::<B>(&asked, &blocks, &bench, &clock)?;
        drop(bench);
        let figures = contenders.iter().map(|contender| Figures::new(contender, &prices, &blocks));
        let mut figures: Vec<Figures> = figures.collect();
        if let Some(model) = model {
            say("comparing kept sets with those of converged scores".into());
            let costed: Vec<&Costed> = contenders.iter().map(|contender| &contender.costed).collect();
            let found =
                overlap::overlaps::<B>(model, subject, &costed, options.steps, device, dtype, extension)?;
            for (figures, overlap) in figures.iter_mut().zip(found) {
                figures.overlap = overlap;
            }
        }
        let full = figures.remove(0);
        Ok(Report {
            heading: heading(subject, model, options, platform),
            guided: work.guided,
            steps: options.steps,
            device: platform.device.clone(),
            dtype: dtype.to_string(),
            size: subject.size.width,
            batch: options.batch,
            full,
            methods: figures,
        })
    }
}

/// What was timed, on what, and how.
fn heading(
    subject: &Subject,
    model: Option<&Model>,
    options: RaceOptions,
    platform: &Platform,
) -> Vec<String> {
    let Platform { backend, device, dtype, threads } = platform;
    let weights = if model.is_some() { "its weights" } else { "generated weights" };
    let attention = if options.unfused { "every attention map stored" } else { "fused attention" };
    let guidance = if options.workload(subject).guided { " with guidance" } else { "" };
    vec![
        format!(
            "{}, {} px, batch {}{guidance}, {dtype}, {weights}, {attention}",
            subject.name, subject.size.width, options.batch
        ),
        format!("{backend} on {device} ({}, {threads} threads)", machine::processor()),
        format!("medians of {} rounds; means over {} steps", options.repeats, options.steps),
    ]
}
