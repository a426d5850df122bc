//! What may happen to a method in its life, as data: generated, and shrunk to the shortest life that fails.

use atedm_core::plugin::{Branch, Grid, Row, Step, Sublayer};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;

/// A run: one picture, or several at once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Picture {
    pub(super) seed: u64,
    /// Steps of the full schedule.
    pub(super) steps: usize,
    /// The step that comes first: above 0 where a run starts from an image.
    pub(super) first: usize,
    /// Numbers of the images in the batch.
    pub(super) images: Vec<u64>,
    /// Whether every image has a row for each half of guidance.
    pub(super) guided: bool,
    /// The grid at level 0.
    pub(super) grid: Grid,
    /// Evaluations of every step: 2 for samplers of second order.
    pub(super) evaluations: usize,
    /// Whether every image is evaluated for itself, one after the other, instead of all as one batch.
    pub(super) in_turn: bool,
    /// Where protected tokens stand in the stream, and how many there are.
    pub(super) protected: (usize, usize),
}

/// The rows of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halves {
    /// One, in a run without guidance.
    None,
    /// One for each half of guidance.
    Both,
    /// The negative half's, in a guided run at a step without guidance.
    Negative,
}

impl Picture {
    /// The rows of an image at a step with guidance, if the run has any.
    pub(super) fn halves(&self) -> Halves {
        if self.guided { Halves::Both } else { Halves::None }
    }

    /// What the rows of a batch are: the negative halves of all images first.
    pub(super) fn rows(&self, halves: Halves) -> Vec<Row> {
        let branches: &[Branch] = match halves {
            Halves::None => &[Branch::Single],
            Halves::Both => &[Branch::Uncond, Branch::Cond],
            Halves::Negative => &[Branch::Uncond],
        };
        let of = |&branch: &Branch| self.images.iter().map(move |&image| Row { image, branch });
        branches.iter().flat_map(of).collect()
    }

    /// The batches of one evaluation.
    pub(super) fn batches(&self, halves: Halves) -> Vec<Vec<Row>> {
        let rows = self.rows(halves);
        if !self.in_turn {
            return vec![rows];
        }
        let of = |&image: &u64| rows.iter().copied().filter(|row| row.image == image).collect();
        self.images.iter().map(of).collect()
    }

    /// The step of an evaluation; `None` once the run is over.
    pub(super) fn step(&self, evaluation: usize) -> Option<Step> {
        let index = self.first + evaluation / self.evaluations;
        let sigma = 1.0 - index as f64 / self.steps as f64;
        let timestep = 1000.0 * sigma;
        (index < self.steps).then_some(Step { index, total: self.steps, evaluation, sigma, timestep })
    }
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// A run begins.
    Begin(Picture),
    /// The run's next evaluation of all blocks; after the last one the same run begins again.
    Evaluate,
    /// An evaluation fails within a block, and with it the run.
    Cancel {
        /// Which block.
        block: usize,
        /// Which of its layers.
        layer: usize,
        /// Within which sublayer.
        sub: Sublayer,
    },
}

/// Runs of one image or two, of any length, from any step, on grids of any form.
pub(super) fn pictures() -> impl Strategy<Value = Picture> {
    let sizes = (1..6usize, 0..6usize, 1..3usize, 3..8usize, 3..8usize);
    (any::<u64>(), sizes, any::<bool>(), 1..3usize).prop_map(|(seed, sizes, guided, evaluations)| {
        let (steps, first, images, height, width) = sizes;
        Picture {
            seed,
            steps,
            first: first % steps,
            images: (0..images as u64).collect(),
            guided,
            grid: Grid::new(height, width),
            evaluations,
            in_turn: false,
            protected: (0, 0),
        }
    })
}

/// [`pictures`] with one to three protected tokens before, among or after those of the coarsest grid.
pub(super) fn protected_pictures() -> impl Strategy<Value = Picture> {
    (pictures(), 0..5usize, 1..4usize)
        .prop_map(|(picture, start, count)| Picture { protected: (start, count), ..picture })
}

fn cancels() -> impl Strategy<Value = Command> {
    let subs = [Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward];
    (0..3usize, 0..3usize, select(subs.to_vec())).prop_map(|(block, layer, sub)| Command::Cancel {
        block,
        layer,
        sub,
    })
}

/// Several runs, some of which are given up between two evaluations.
pub(super) fn lives() -> impl Strategy<Value = Vec<Command>> {
    let command = prop_oneof![
        1 => pictures().prop_map(Command::Begin),
        3 => Just(Command::Evaluate),
    ];
    (pictures(), vec(command, 1..7)).prop_map(|(first, rest)| [vec![Command::Begin(first)], rest].concat())
}

/// [`lives`] of videos of one to three frames.
pub(super) fn video_lives() -> impl Strategy<Value = Vec<Command>> {
    let longer = |command| match command {
        Command::Begin(picture) => {
            let Grid { height, width, .. } = picture.grid;
            let frames = 1 + (picture.seed % 3) as usize;
            Command::Begin(Picture { grid: Grid::of_frames(frames, height, width), ..picture })
        }
        other => other,
    };
    lives().prop_map(move |life| life.into_iter().map(longer).collect())
}

/// [`lives`] whose last run fails within an evaluation.
pub(super) fn cut_lives() -> impl Strategy<Value = Vec<Command>> {
    (lives(), cancels()).prop_map(|(life, cancel)| [life, vec![cancel]].concat())
}
