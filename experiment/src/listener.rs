//! Who hears how an experiment goes on. The library itself writes to no stream.

use crate::record::{Flops, Times};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Weights are read.
    Loading,
    /// The U-Net runs.
    Denoising,
    /// The autoencoder makes a picture of the latents.
    Decoding,
}

/// An image that was written to a run's folder.
#[derive(Debug, Clone, Copy)]
pub struct WrittenImage<'a> {
    /// Its prompt's id.
    pub prompt: &'a str,
    /// Its point, as a person reads it.
    pub label: &'a str,
    /// Images that are there, this one among them.
    pub count: usize,
    /// Images of the whole run, or of its shard.
    pub total: usize,
    /// What the U-Net cost.
    pub flops: Flops,
    /// How long it took.
    pub times: Times,
    /// How far it is from the unpruned image, where it is compared with one.
    pub psnr: Option<Psnr>,
}

/// How far a picture is from another one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Psnr {
    /// Not at all.
    Equal,
    /// Peak signal-to-noise ratio in dB.
    Decibels(f64),
}

/// Hears how an experiment goes on. Each method has an empty body: implement those that matter.
pub trait Listener {
    /// Something is not as its writer may think, and the run goes on: one line, without the word "warning".
    fn warning(&self, _message: &str) {}

    /// A run of images begins, with this many denoising steps in all.
    fn begin(&self, _steps: usize) {}

    /// What happens now.
    fn phase(&self, _phase: Phase) {}

    /// The models are loaded: from here on, steps count.
    fn ready(&self) {}

    /// This many denoising steps are done, of all images.
    fn steps_done(&self, _steps: usize) {}

    /// An image is in the run's folder, its line in `results.jsonl`.
    fn written(&self, _image: &WrittenImage<'_>) {}

    /// No image is made any more.
    fn end(&self) {}

    /// How a benchmark gets on, in a few words.
    fn note(&self, _words: &str) {}
}

/// Nobody listens.
impl Listener for () {}

fn _object_safe(_: &dyn Listener) {}
