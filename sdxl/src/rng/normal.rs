//! Box–Muller in f32 with fixed polynomials. It gives the same bits on every machine.
//!
//! ```text
//! r = √(−2 ln(1 − u₁)),  θ = 2π u₂;   normals r cos θ and r sin θ
//! ```
//!
//! Logarithm, sine and cosine are Cephes' single-precision polynomials (Moshier). Every product that feeds a sum is
//! fused into it, as in torch's vector code. A correctly rounded logarithm would differ from torch's latents in the
//! last bits.

/// `float(2π)`.
const TWO_PI: f32 = std::f32::consts::TAU;

/// Two standard normals from two uniforms of `[0, 1)`: `(r cos θ, r sin θ)`.
pub(super) fn box_muller(u1: f32, u2: f32) -> (f32, f32) {
    let radius = (-2.0 * ln(1.0 - u1)).sqrt();
    let (sin, cos) = sin_cos(TWO_PI * u2);
    // Adding zero turns -0 into +0, as torch's `n * std + mean` does.
    (radius * cos + 0.0, radius * sin + 0.0)
}

/// Like [`box_muller`], as torch computes it in a half precision. `round` rounds every intermediate value to that
/// precision.
pub(super) fn box_muller_rounded(u1: f32, u2: f32, round: impl Fn(f32) -> f32) -> (f32, f32) {
    let of = |f: fn(f64) -> f64, x: f32| round(f(f64::from(x)) as f32);
    let logarithm = of(f64::ln, round(1.0 - u1));
    let radius = of(f64::sqrt, round(-2.0 * logarithm));
    let angle = round((std::f64::consts::TAU * f64::from(u2)) as f32);
    // Adding zero turns -0 into +0, as torch's `n * std + mean` does.
    (round(radius * of(f64::cos, angle)) + 0.0, round(radius * of(f64::sin, angle)) + 0.0)
}

/// Like [`box_muller`], as torch computes it in double precision with the C library's functions.
pub(super) fn box_muller_f64(u1: f64, u2: f64) -> (f64, f64) {
    let radius = (-2.0 * (1.0 - u1).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * u2).sin_cos();
    (radius * cos + 0.0, radius * sin + 0.0)
}

/// Replaces 16 uniforms by 16 normals in place. `pair` converts numbers `j` and `j + 8` together.
pub(super) fn in_pairs_of_16<V: Copy>(block: &mut [V; 16], pair: impl Fn(V, V) -> (V, V)) {
    let (first, second) = block.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        (*a, *b) = pair(*a, *b);
    }
}

/// The natural logarithm of a positive normal number.
fn ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // ln 2 in two parts.
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const LN2_HIGH: f32 = 0.693_359_4;

    // x = m 2^e with m in [√½, √2).
    let bits = x.to_bits();
    let mut exponent = ((bits >> 23) as i32 - 0x7e) as f32;
    let mantissa = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
    let m = if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        (mantissa - 1.0) + mantissa
    } else {
        mantissa - 1.0
    };
    let square = m * m;
    let series = P[1..].iter().fold(P[0], |sum, &p| sum.mul_add(m, p)) * m;
    let low = square.mul_add(-0.5, series.mul_add(square, exponent * LN2_LOW));
    exponent.mul_add(LN2_HIGH, m + low)
}

/// The sine and cosine of an angle in `[0, 2π]`.
fn sin_cos(angle: f32) -> (f32, f32) {
    // π/4 in three parts (Cody and Waite).
    const QUARTER_PI: [f32; 3] = [0.785_156_25, 2.418_756_5e-4, 3.774_895e-8];
    // The octant, rounded to an even number. The angle is then within π/4 of a multiple of π/2.
    let octant = ((angle * (4.0 / std::f32::consts::PI)) as i32 + 1) & !1;
    let x = QUARTER_PI.iter().fold(angle, |x, &part| (octant as f32).mul_add(-part, x));
    let z = x * x;

    let cosine = 2.443_315_7e-5_f32.mul_add(z, -1.388_731_6e-3).mul_add(z, 4.166_664_6e-2) * z;
    let cosine = cosine.mul_add(z, -0.5 * z) + 1.0;
    let sine = (-1.951_529_6e-4_f32).mul_add(z, 8.332_161e-3).mul_add(z, -1.666_665_5e-1) * z;
    let sine = sine.mul_add(x, x);

    let (sine, cosine) = if octant & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
    let sine = if octant & 4 == 0 { sine } else { -sine };
    let cosine = if (octant + 2) & 4 == 0 { cosine } else { -cosine };
    (sine, cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_is_close_to_the_true_one() {
        for i in 1..=4096 {
            let x = i as f32 / 4096.0;
            let truth = f64::from(x).ln();
            assert!((f64::from(ln(x)) - truth).abs() <= 1.2e-7 * truth.abs().max(0.25), "ln({x})");
        }
    }

    #[test]
    fn sine_and_cosine_are_close_to_the_true_ones() {
        for i in 0..4096 {
            let angle = TWO_PI * (i as f32 / 4096.0);
            let (sin, cos) = sin_cos(angle);
            assert!((f64::from(sin) - f64::from(angle).sin()).abs() < 1.2e-7, "sin({angle})");
            assert!((f64::from(cos) - f64::from(angle).cos()).abs() < 1.2e-7, "cos({angle})");
        }
    }

    #[test]
    fn the_smallest_uniform_gives_zero() {
        assert_eq!(box_muller(0.0, 0.0).0.to_bits(), 0f32.to_bits());
    }
}
