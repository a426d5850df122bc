//! Receivers of an experiment's progress. The library itself writes to no stream.

use crate::record::{Flops, Times};

/// A phase of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Weights are read.
    Loading,
    /// The U-Net runs.
    Denoising,
    /// The autoencoder decodes the latents to a picture.
    Decoding,
}

/// An image that was written to a run's folder.
#[derive(Debug, Clone, Copy)]
pub struct WrittenImage<'a> {
    /// Its prompt's id.
    pub prompt: &'a str,
    /// The readable name of its point.
    pub label: &'a str,
    /// Number of images in the folder, this one included.
    pub count: usize,
    /// Number of images of the whole run, or of its shard.
    pub total: usize,
    /// The cost of the U-Net.
    pub flops: Flops,
    /// The time that the image took.
    pub times: Times,
    /// The distance to the unpruned image, if they are compared.
    pub psnr: Option<Psnr>,
}

/// The distance between two pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Psnr {
    /// The pictures are equal.
    Equal,
    /// Peak signal-to-noise ratio in dB.
    Decibels(f64),
}

/// Receives the progress of an experiment. Every method has an empty default; implement those that you need.
pub trait Listener {
    /// Warns of something that the user may not expect. The run continues. The message is one line, without the word
    /// "warning".
    fn warning(&self, _message: &str) {}

    /// A run of images begins. It has this many denoising steps in total.
    fn begin(&self, _steps: usize) {}

    /// A phase begins.
    fn phase(&self, _phase: Phase) {}

    /// The models are loaded. Steps count from here on.
    fn ready(&self) {}

    /// This many denoising steps are done, over all images.
    fn steps_done(&self, _steps: usize) {}

    /// An image is in the run's folder, and its line is in `results.jsonl`.
    fn written(&self, _image: &WrittenImage<'_>) {}

    /// All images are made.
    fn end(&self) {}

    /// The progress of a benchmark, in a few words.
    fn note(&self, _words: &str) {}
}

/// A listener that ignores everything.
impl Listener for () {}

fn _object_safe(_: &dyn Listener) {}
