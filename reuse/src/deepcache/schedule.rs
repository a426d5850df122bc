//! The steps at which DeepCache computes everything.
//!
//! Even steps are every `cache_interval`-th step, starting with the first. Uneven steps are equally many, but closer
//! together around `center`. They are computed as in the authors' `sample_from_quad_center`:
//!
//! ```text
//! n = ceil(steps / cache_interval)
//! for p = pow, pow - 0.02, … above 1:
//!     x    = n + 1 numbers, evenly spaced from (-center)^(1/p) to (steps - center)^(1/p)
//!     full = {0} and center + each of the distinct trunc(Re x^p) but the least and the greatest
//!     stop if full has n steps
//! ```
//!
//! A fractional power of a negative number is complex. The authors' program continues with complex numbers, and so does
//! this one.

use atedm_core::{Error, Result};

/// For each step of a run, whether it computes everything.
///
/// # Errors
/// [`Error::Config`] naming `center` if it is not a step of the run. [`Error::Config`] naming `pow` if no power gives
/// the requested number of steps.
pub fn uneven_steps(steps: usize, interval: usize, center: usize, pow: f64) -> Result<Vec<bool>> {
    if center >= steps {
        return Err(Error::config(
            "center",
            format!("expected a step below the run's {steps}, got {center}"),
        ));
    }
    let wanted = steps.div_ceil(interval.max(1));
    let mut power = pow;
    while power > 1.0 {
        let inner = spaced(steps, wanted, center, power);
        if inner.len() + 1 == wanted {
            let is_full = |step: usize| step == 0 || inner.contains(&(step as i64));
            return Ok((0..steps).map(is_full).collect());
        }
        power -= 0.02;
    }
    let reason = format!(
        "no power from {pow} down to 1 gives {wanted} steps of {steps} around {center}: change center"
    );
    Err(Error::config("pow", reason))
}

/// The full steps other than the first, ascending.
fn spaced(steps: usize, count: usize, center: usize, power: f64) -> Vec<i64> {
    let start = root_of_negative(center as f64, power);
    let end = Complex { re: ((steps - center) as f64).powf(1.0 / power), im: 0.0 };
    // numpy divides real numbers, but multiplies complex numbers by the inverse
    let share = |part: f64| if center == 0 { part / count as f64 } else { part * (1.0 / count as f64) };
    let by = Complex { re: share(end.re - start.re), im: share(end.im - start.im) };
    let mut whole: Vec<i64> = (0..=count)
        .map(|i| {
            let i_th = Complex { re: i as f64 * by.re + start.re, im: i as f64 * by.im + start.im };
            let x = if i == count { end } else { i_th };
            x.powf(power).re as i64
        })
        .collect();
    whole.sort_unstable();
    whole.dedup();
    let inner = whole.get(1..whole.len() - 1).unwrap_or_default();
    inner.iter().map(|x| x + center as i64).collect()
}

#[derive(Debug, Clone, Copy)]
struct Complex {
    re: f64,
    im: f64,
}

/// `(-x)^(1/power)` for `x` of at least 0, in Python's order of operations. If a number is almost whole, its last bit
/// decides.
fn root_of_negative(x: f64, power: f64) -> Complex {
    let (length, angle) = (x.powf(1.0 / power), std::f64::consts::PI * (1.0 / power));
    match x == 0.0 {
        true => Complex { re: 0.0, im: 0.0 },
        false => Complex { re: length * angle.cos(), im: length * angle.sin() },
    }
}

impl Complex {
    fn powf(self, power: f64) -> Self {
        if self.im == 0.0 && self.re >= 0.0 {
            return Self { re: self.re.powf(power), im: 0.0 };
        }
        if power == 2.0 {
            return Self { re: self.re * self.re - self.im * self.im, im: 2.0 * self.re * self.im };
        }
        let length = (power * self.log_of_length()).exp();
        let angle = power * self.im.atan2(self.re);
        Self { re: length * angle.cos(), im: length * angle.sin() }
    }

    /// The logarithm of the absolute value, as precise near 1 as C's `clog`. Near 1, the last bit decides too.
    fn log_of_length(self) -> f64 {
        let (x, y) = (self.re.abs().max(self.im.abs()), self.re.abs().min(self.im.abs()));
        let is_near_one =
            (1.0..2.0).contains(&x) && y < 1.0 || (0.5..1.0).contains(&x) && x * x + y * y >= 0.5;
        if !is_near_one {
            return x.hypot(y).ln();
        }
        // x^2 + y^2 - 1, plus the rounding errors of the squares
        let (xx, yy) = (x * x, y * y);
        let lost = x.mul_add(x, -xx) + y.mul_add(y, -yy);
        (((xx - 1.0) + yy) + lost).ln_1p() / 2.0
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Row {
        steps: usize,
        cache_interval: usize,
        center: usize,
        pow: f64,
        full: Vec<usize>,
    }

    /// Every row of the fixture is an output of the authors' own function.
    #[test]
    fn uneven_steps_are_the_authors() {
        let text = include_str!("../../../tests/fixtures/reuse/deepcache_schedules.json");
        let rows: Vec<Row> = serde_json::from_str(text).unwrap();
        assert!(rows.len() > 300);
        let mut wrong = Vec::new();
        for Row { steps, cache_interval, center, pow, full } in rows {
            let got = uneven_steps(steps, cache_interval, center, pow).unwrap();
            let got: Vec<usize> = (0..steps).filter(|&step| got[step]).collect();
            if got != full {
                wrong.push(format!("{steps} {cache_interval} {center} {pow}: {got:?}, theirs {full:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn what_cannot_be_is_said_in_a_line() {
        let error = uneven_steps(10, 3, 15, 1.4).unwrap_err().to_string();
        assert_eq!(error, "center: expected a step below the run's 10, got 15");
        let error = uneven_steps(10, 3, 2, 1.0).unwrap_err().to_string();
        assert!(error.starts_with("pow: no power from 1 down to 1 gives 4 steps of 10 around 2"), "{error}");
    }
}
