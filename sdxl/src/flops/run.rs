//! The cost of a whole run: the cost of each step, and the mean.

use atedm_core::Result;

use super::{Macs, UNetCost, tflop};

/// Steps at which every part of the U-Net costs the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepClass {
    /// The 0-based indices of the steps, ascending; never empty.
    pub steps: Vec<usize>,
    /// The cost of one evaluation at any of these steps.
    pub cost: UNetCost,
}

impl StepClass {
    /// TFLOP (2 × MAC, one sample) of one evaluation.
    pub fn tflop(&self) -> f64 {
        self.cost.sum().tflop()
    }
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
    pub fn new(steps: usize, mut cost: impl FnMut(usize) -> Result<UNetCost>) -> Result<Self> {
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
        self.classes.iter().max_by_key(|class| class.cost.sum().total())
    }

    /// The cheapest steps: the normal ones, with full pruning.
    pub fn cheapest(&self) -> Option<&StepClass> {
        self.classes.iter().min_by_key(|class| class.cost.sum().total())
    }

    /// The mean over the steps, in TFLOP (2 × MAC, one sample).
    pub fn mean_tflop(&self) -> f64 {
        self.mean(Macs::total)
    }

    /// The mean TFLOP by kind of operation, with the names of the table of `atedm flops`.
    pub fn mean_by_kind(&self) -> Vec<(&'static str, f64)> {
        let kinds = Macs::default().by_kind();
        let of = |(i, (name, _)): (usize, &(&'static str, u64))| {
            (*name, self.mean(|macs| macs.by_kind().get(i).map_or(0, |kind| kind.1)))
        };
        kinds.iter().enumerate().map(of).collect()
    }

    /// The mean TFLOP by part of the U-Net, with the names of [`PartCost::name`](super::PartCost::name).
    pub fn mean_by_part(&self) -> Vec<(String, f64)> {
        let Some(first) = self.classes.first() else { return Vec::new() };
        let total = |name: &str| -> u64 {
            let of = |class: &StepClass| class.cost.part(name).map_or(0, Macs::total);
            self.classes.iter().map(|class| class.steps.len() as u64 * of(class)).sum()
        };
        let mean = |name: &str| tflop(total(name)) / self.steps as f64;
        first.cost.parts.iter().map(|part| (part.name.clone(), mean(&part.name))).collect()
    }

    fn mean(&self, of: impl Fn(&Macs) -> u64) -> f64 {
        let sum: u64 =
            self.classes.iter().map(|class| class.steps.len() as u64 * of(&class.cost.sum())).sum();
        tflop(sum) / self.steps.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::PartCost;
    use super::*;

    fn cost(convolutions: u64, feed_forward: u64) -> UNetCost {
        let macs = |convolutions, feed_forward| Macs { convolutions, feed_forward, ..Macs::default() };
        let part = |name: &str, macs| PartCost { name: name.into(), macs };
        UNetCost {
            parts: vec![part("conv_in", macs(convolutions, 0)), part("mid.attention", macs(0, feed_forward))],
        }
    }

    #[test]
    fn equal_steps_are_one_class_and_means_are_weighted() {
        let tera = 1_000_000_000_000;
        // steps 0 and 3 of 4 are expensive
        let run =
            RunCost::new(4, |step| Ok(cost(tera, if step % 3 == 0 { 3 * tera } else { tera }))).unwrap();
        let steps: Vec<&[usize]> = run.classes().iter().map(|class| class.steps.as_slice()).collect();
        assert_eq!(steps, [&[0, 3][..], &[1, 2]]);
        assert_eq!((run.dearest().unwrap().tflop(), run.cheapest().unwrap().tflop()), (8.0, 4.0));
        assert_eq!(run.mean_tflop(), 6.0);
        let by_kind = run.mean_by_kind();
        assert_eq!(by_kind[0], ("conv 3x3", 2.0));
        assert_eq!(by_kind[8], ("feed-forward", 4.0));
        let by_part: Vec<f64> = run.mean_by_part().into_iter().map(|(_, tflop)| tflop).collect();
        assert_eq!(by_part, [2.0, 4.0]);
    }

    #[test]
    fn no_steps_cost_nothing() {
        let run = RunCost::new(0, |_| Ok(cost(1, 1))).unwrap();
        assert_eq!((run.mean_tflop(), run.dearest()), (0.0, None));
    }
}
