//! Ranges and ticks of an axis.

use super::svg::width_of;

/// The space between the labels of two ticks, in pixels.
const GAP: f64 = 10.0;

/// A range of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Range {
    /// A range with some space around the values. If there are no values, any range.
    pub(super) fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return Self { low: 0.0, high: 1.0 };
        }
        let room = match high - low {
            // a single value: wide enough for distinct ticks
            none if none <= 1e-9 * high.abs() => (0.1 * high.abs()).max(1e-6),
            span => 0.06 * span,
        };
        Self { low: low - room, high: high + room }
    }

    /// The share of the range that lies below a value.
    pub(super) fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Round values in the range with their labels, at most about `most` of them.
    pub(super) fn ticks(self, most: usize) -> Vec<(f64, String)> {
        let rough = (self.high - self.low) / most.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        let (first, last) = ((self.low / step).ceil(), (self.high / step).floor());
        let count = (last - first).max(-1.0) as usize + 1;
        (0..count)
            .map(|index| (first + index as f64) * step)
            .map(|value| (value, label(value, step)))
            .collect()
    }

    /// Ticks of a horizontal axis so long that their labels do not touch.
    pub(super) fn ticks_across(self, most: usize, pixels: f64, size: f64) -> Vec<(f64, String)> {
        let fits = |ticks: &[(f64, String)]| {
            ticks.windows(2).all(|pair| match pair {
                [(a, left), (b, right)] => {
                    let needed = (width_of(left, size) + width_of(right, size)) / 2.0 + GAP;
                    (self.share(*b) - self.share(*a)) * pixels >= needed
                }
                _ => true,
            })
        };
        let fitting = (1..=most).rev().map(|most| self.ticks(most)).find(|ticks| fits(ticks));
        fitting.unwrap_or_default()
    }
}

/// The label of a tick, with the digits that the step needs. Very large and very small numbers have an exponent.
fn label(value: f64, step: f64) -> String {
    // a multiple of the step that stands for zero
    let value = if value.abs() < step / 2.0 { 0.0 } else { value };
    let digits = (-step.log10()).ceil().max(0.0) as usize;
    if value == 0.0 {
        return "0".into();
    }
    if digits > 4 || value.abs() >= 1e6 {
        let digits = (value.abs().log10().floor() - step.log10().floor()).clamp(0.0, 6.0) as usize;
        return format!("{value:.digits$e}");
    }
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, most: usize) -> Vec<String> {
        Range { low, high }.ticks(most).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ranges_have_room_and_are_never_empty() {
        let Range { low, high } = Range::around([0.0, 50.0].into_iter());
        assert!((-5.0..0.0).contains(&low) && (50.0..55.0).contains(&high));
        for values in [vec![], vec![4.0], vec![0.0], vec![-3.0, -3.0]] {
            let Range { low, high } = Range::around(values.iter().copied());
            assert!(low < high, "{values:?}");
        }
    }

    #[test]
    fn ticks_are_round_and_differ() {
        assert_eq!(labels(-0.3, 10.2, 6), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(0.9984, 1.0001, 4), ["0.9985", "0.9990", "0.9995", "1.0000"]);
        assert_eq!(labels(-1.1, 1.1, 5), ["-1.0", "-0.5", "0", "0.5", "1.0"]);
        assert_eq!(labels(1.9e-5, 4.1e-5, 3), ["2e-5", "3e-5", "4e-5"]);
        assert_eq!(labels(1.9e6, 4.1e6, 3), ["2e6", "3e6", "4e6"]);
        let ticks = Range { low: 0.123_451, high: 0.123_459 }.ticks_across(8, 200.0, 12.0);
        assert!(ticks.windows(2).all(|pair| pair[0].1 != pair[1].1) && !ticks.is_empty(), "{ticks:?}");
    }

    #[test]
    fn ticks_across_do_not_touch() {
        let wide = Range { low: 99_990.0, high: 100_400.0 }.ticks_across(8, 160.0, 12.0);
        assert!(wide.len() < 4 && !wide.is_empty(), "{wide:?}");
    }
}
