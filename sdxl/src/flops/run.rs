//! The cost of a whole run: which steps cost what, and their mean.

use atedm_core::Result;

use super::{Macs, UNetCost, tflop};

/// Steps at which every part of the U-Net costs the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepClass {
    /// The steps' 0-based indices, ascending; never empty.
    pub steps: Vec<usize>,
    /// The cost of one evaluation at any of them.
    pub cost: UNetCost,
}

impl StepClass {
    /// TFLOP (2 × MAC, one sample) of one evaluation.
    pub fn tflop(&self) -> f64 {
        self.cost.sum().tflop()
    }
}

/// The mean cost of a kind of operation or of a part of the U-Net.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanCost {
    /// The kind or the part.
    pub name: String,
    /// The mean over the steps of a run, in TFLOP (2 × MAC, one sample).
    pub tflop: f64,
}

/// One evaluation at each step of a run, steps of equal cost together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunCost {
    classes: Vec<StepClass>,
    steps: usize,
}

impl RunCost {
    /// A run of `steps` steps whose evaluations cost what `cost` says.
    ///
    /// # Errors
    /// Those of `cost`.
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

    /// The groups of steps, in the order in which they begin.
    pub fn classes(&self) -> &[StepClass] {
        &self.classes
    }

    /// The dearest steps: the prune-less ones of a schedule that has such.
    pub fn dearest(&self) -> Option<&StepClass> {
        self.classes.iter().max_by_key(|class| class.cost.sum().total())
    }

    /// The cheapest steps: the normal ones.
    pub fn cheapest(&self) -> Option<&StepClass> {
        self.classes.iter().min_by_key(|class| class.cost.sum().total())
    }

    /// The mean over the steps, in TFLOP (2 × MAC, one sample).
    pub fn mean_tflop(&self) -> f64 {
        self.mean(Macs::total)
    }

    /// The mean cost of each kind of operation, with the names of the table of `atedm flops`.
    pub fn mean_by_kind(&self) -> Vec<MeanCost> {
        let kinds = Macs::default().by_kind();
        let of = |(i, (name, _)): (usize, &(&'static str, u64))| MeanCost {
            name: name.to_string(),
            tflop: self.mean(|macs| macs.by_kind().get(i).map_or(0, |kind| kind.1)),
        };
        kinds.iter().enumerate().map(of).collect()
    }

    /// The mean cost of each part of the U-Net, with the names of [`PartCost::name`](super::PartCost::name).
    pub fn mean_by_part(&self) -> Vec<MeanCost> {
        let Some(first) = self.classes.first() else { return Vec::new() };
        let total = |name: &str| -> u64 {
            let of = |class: &StepClass| class.cost.part(name).map_or(0, Macs::total);
            self.classes.iter().map(|class| class.steps.len() as u64 * of(class)).sum()
        };
        let mean = |name: &str| tflop(total(name)) / self.steps as f64;
        let of = |name: &String| MeanCost { name: name.clone(), tflop: mean(name) };
        first.cost.parts.iter().map(|part| of(&part.name)).collect()
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
        // dear at steps 0 and 3 of 4
        let run =
            RunCost::new(4, |step| Ok(cost(tera, if step % 3 == 0 { 3 * tera } else { tera }))).unwrap();
        let steps: Vec<&[usize]> = run.classes().iter().map(|class| class.steps.as_slice()).collect();
        assert_eq!(steps, [&[0, 3][..], &[1, 2]]);
        assert_eq!((run.dearest().unwrap().tflop(), run.cheapest().unwrap().tflop()), (8.0, 4.0));
        assert_eq!(run.mean_tflop(), 6.0);
        let by_kind = run.mean_by_kind();
        assert_eq!(by_kind[0], MeanCost { name: "conv 3x3".into(), tflop: 2.0 });
        assert_eq!(by_kind[8], MeanCost { name: "feed-forward".into(), tflop: 4.0 });
        let by_part: Vec<f64> = run.mean_by_part().into_iter().map(|part| part.tflop).collect();
        assert_eq!(by_part, [2.0, 4.0]);
    }

    #[test]
    fn no_steps_cost_nothing() {
        let run = RunCost::new(0, |_| Ok(cost(1, 1))).unwrap();
        assert_eq!((run.mean_tflop(), run.dearest()), (0.0, None));
    }
}
