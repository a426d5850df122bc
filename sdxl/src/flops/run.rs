//! The cost of a whole run: the cost of each step, and the mean.

use atedm_core::Result;

use super::{Macs, UNetCost};

/// How many of a run's rows an evaluation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// Half of them: guidance has ended, and an image is one row in place of two.
    Half,
}

impl Rows {
    /// The rows as a share of the run's.
    pub fn share(self) -> f64 {
        match self {
            Self::All => 1.0,
            Self::Half => 0.5,
        }
    }
}

/// The cost of one evaluation of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationCost {
    /// What each row of the evaluation costs.
    pub row: UNetCost,
    /// How many rows it has.
    pub rows: Rows,
}

impl EvaluationCost {
    /// TFLOP (2 × MAC) for each of the run's rows: half of a row's cost where guidance has ended.
    pub fn tflop(&self) -> f64 {
        self.row.sum().tflop() * self.rows.share()
    }
}

/// Steps at which every part of the U-Net costs the same, on as many rows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepClass {
    /// The 0-based indices of the steps, ascending; never empty.
    pub steps: Vec<usize>,
    /// The cost of one evaluation at any of these steps.
    pub cost: EvaluationCost,
}

/// The mean cost of a kind of operation or of a part of the U-Net.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanCost {
    /// The kind or the part.
    pub name: String,
    /// The mean over the steps of a run, in TFLOP (2 × MAC) for each of the run's rows.
    pub tflop: f64,
}

/// The evaluations of a run, one per step. Steps of equal cost are grouped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunCost {
    classes: Vec<StepClass>,
    steps: usize,
}

impl RunCost {
    /// A run of `steps` steps. `cost` gives the cost of the evaluation at a step.
    ///
    /// # Errors
    /// The errors of `cost`.
    pub fn new(steps: usize, mut cost: impl FnMut(usize) -> Result<EvaluationCost>) -> Result<Self> {
        let mut classes: Vec<StepClass> = Vec::new();
        for step in 0..steps {
            let cost = cost(step)?;
            match classes.iter_mut().find(|class| class.cost == cost) {
                Some(class) => class.steps.push(step),
                None => classes.push(StepClass { steps: vec![step], cost }),
            }
        }
        Ok(Self { classes, steps })
    }

    /// The groups of steps, ordered by their first step.
    pub fn classes(&self) -> &[StepClass] {
        &self.classes
    }

    /// The most expensive steps: the prune-less steps, if the schedule has some.
    pub fn dearest(&self) -> Option<&StepClass> {
        self.classes.iter().max_by(|a, b| a.cost.tflop().total_cmp(&b.cost.tflop()))
    }

    /// The cheapest steps: the normal ones, with full pruning.
    pub fn cheapest(&self) -> Option<&StepClass> {
        self.classes.iter().min_by(|a, b| a.cost.tflop().total_cmp(&b.cost.tflop()))
    }

    /// The number of steps without guidance in a guided run.
    pub fn unguided_steps(&self) -> usize {
        let half = self.classes.iter().filter(|class| class.cost.rows == Rows::Half);
        half.map(|class| class.steps.len()).sum()
    }

    /// The mean over the steps, in TFLOP (2 × MAC) for each of the run's rows.
    pub fn mean_tflop(&self) -> f64 {
        self.mean(|cost| cost.sum().total())
    }

    /// The mean cost of each kind of operation, with the names of the table of `atedm flops`.
    pub fn mean_by_kind(&self) -> Vec<MeanCost> {
        let kinds = Macs::default().by_kind();
        let of = |(i, (name, _)): (usize, &(&'static str, u64))| MeanCost {
            name: name.to_string(),
            tflop: self.mean(|cost| cost.sum().by_kind().get(i).map_or(0, |kind| kind.1)),
        };
        kinds.iter().enumerate().map(of).collect()
    }

    /// The mean cost of each part of the U-Net, with the names of [`PartCost::name`](super::PartCost::name).
    pub fn mean_by_part(&self) -> Vec<MeanCost> {
        // A ControlNet's parts are listed only at steps at which it runs.
        let all = self.classes.iter().max_by_key(|class| class.cost.row.parts.len());
        let Some(all) = all else { return Vec::new() };
        let of = |name: &String| MeanCost {
            name: name.clone(),
            tflop: self.mean(|cost| cost.part(name).map_or(0, Macs::total)),
        };
        all.cost.row.parts.iter().map(|part| of(&part.name)).collect()
    }

    fn mean(&self, of: impl Fn(&UNetCost) -> u64) -> f64 {
        let weight = |class: &StepClass| class.steps.len() as f64 * class.cost.rows.share();
        let sum: f64 = self.classes.iter().map(|class| weight(class) * of(&class.cost.row) as f64).sum();
        2e-12 * sum / self.steps.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::PartCost;
    use super::*;

    fn cost(convolutions: u64, feed_forward: u64) -> EvaluationCost {
        let macs = |convolutions, feed_forward| Macs { convolutions, feed_forward, ..Macs::default() };
        let part = |name: &str, macs| PartCost { name: name.into(), macs };
        let parts =
            vec![part("conv_in", macs(convolutions, 0)), part("mid.attention", macs(0, feed_forward))];
        EvaluationCost { row: UNetCost { parts }, rows: Rows::All }
    }

    #[test]
    fn equal_steps_are_one_class_and_means_are_weighted() {
        let tera = 1_000_000_000_000;
        // steps 0 and 3 of 4 are expensive
        let run =
            RunCost::new(4, |step| Ok(cost(tera, if step % 3 == 0 { 3 * tera } else { tera }))).unwrap();
        let steps: Vec<&[usize]> = run.classes().iter().map(|class| class.steps.as_slice()).collect();
        assert_eq!(steps, [&[0, 3][..], &[1, 2]]);
        assert_eq!((run.dearest().unwrap().cost.tflop(), run.cheapest().unwrap().cost.tflop()), (8.0, 4.0));
        assert_eq!(run.mean_tflop(), 6.0);
        let by_kind = run.mean_by_kind();
        assert_eq!(by_kind[0], MeanCost { name: "conv 3x3".into(), tflop: 2.0 });
        assert_eq!(by_kind[8], MeanCost { name: "feed-forward".into(), tflop: 4.0 });
        let by_part: Vec<f64> = run.mean_by_part().into_iter().map(|part| part.tflop).collect();
        assert_eq!(by_part, [2.0, 4.0]);
    }

    /// Guidance ends at step 1 of 4: three steps cost half, in a class of their own.
    #[test]
    fn steps_without_guidance_count_half() {
        let tera = 1_000_000_000_000;
        let half = |step: usize| match step {
            0 => cost(tera, tera),
            _ => EvaluationCost { rows: Rows::Half, ..cost(tera, tera) },
        };
        let run = RunCost::new(4, |step| Ok(half(step))).unwrap();
        let steps: Vec<&[usize]> = run.classes().iter().map(|class| class.steps.as_slice()).collect();
        assert_eq!((steps, run.unguided_steps()), (vec![&[0][..], &[1, 2, 3]], 3));
        assert_eq!((run.dearest().unwrap().cost.tflop(), run.cheapest().unwrap().cost.tflop()), (4.0, 2.0));
        assert_eq!(run.mean_tflop(), (4.0 + 3.0 * 2.0) / 4.0);
        assert_eq!(run.mean_by_kind()[0], MeanCost { name: "conv 3x3".into(), tflop: 1.25 });
        assert_eq!(run.mean_by_part()[1], MeanCost { name: "mid.attention".into(), tflop: 1.25 });
    }

    #[test]
    fn no_steps_cost_nothing() {
        let run = RunCost::new(0, |_| Ok(cost(1, 1))).unwrap();
        assert_eq!((run.mean_tflop(), run.dearest()), (0.0, None));
    }
}
