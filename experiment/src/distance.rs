//! Distances between two pictures: PSNR and SSIM of 8-bit pictures, L2 of latents.

use crate::files::Picture;

/// Peak signal-to-noise ratio in dB over all channels: `10 log₁₀(255² / MSE)`. `None` for equal pictures, where it is
/// infinite, and for pictures of two sizes.
pub(crate) fn psnr(a: &Picture, b: &Picture) -> Option<f64> {
    if (a.width, a.height) != (b.width, b.height) {
        return None;
    }
    let squares: u64 = a.rgb.iter().zip(&b.rgb).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum();
    let mean = squares as f64 / a.rgb.len().max(1) as f64;
    (squares > 0).then(|| 10.0 * (255.0 * 255.0 / mean).log10())
}

/// Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004) of the grey pictures:
/// ```text
/// SSIM(x, y) = (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)),   C1 = (0.01·255)², C2 = (0.03·255)²
/// ```
/// The means, variances and covariance use an 11 × 11 Gaussian window of σ = 1.5. The result is averaged over all
/// places where the window lies inside the picture. Grey is Rec. 601 luma. Along a side below 11 pixels, the window is
/// as long as that side. Pictures of two sizes give 0.
pub(crate) fn ssim(a: &Picture, b: &Picture) -> f64 {
    if (a.width, a.height) != (b.width, b.height) || a.rgb.is_empty() {
        return 0.0;
    }
    ssim_grey(&luma(a), &luma(b), a.width)
}

fn ssim_grey(a: &[f64], b: &[f64], width: usize) -> f64 {
    const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
    const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).collect::<Vec<f64>>();
    let [mean_a, mean_b] = [a, b].map(|x| blurred(x, width));
    let [aa, bb, ab] = [(a, a), (b, b), (a, b)].map(|(x, y)| blurred(&product(x, y), width));
    let places = mean_a.iter().zip(&mean_b).zip(aa.iter().zip(&bb).zip(&ab));
    let (mut sum, mut count) = (0.0, 0u32);
    for ((&ma, &mb), ((&aa, &bb), &ab)) in places {
        let (va, vb, cov) = (aa - ma * ma, bb - mb * mb, ab - ma * mb);
        sum += (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2));
        count += 1;
    }
    sum / f64::from(count.max(1))
}

/// Rec. 601: 0.299 R + 0.587 G + 0.114 B.
fn luma(picture: &Picture) -> Vec<f64> {
    let grey = |pixel: &[u8]| match pixel {
        [r, g, b] => 0.299 * f64::from(*r) + 0.587 * f64::from(*g) + 0.114 * f64::from(*b),
        _ => 0.0,
    };
    picture.rgb.chunks(3).map(grey).collect()
}

/// Weights of the window in one dimension: a Gaussian of σ = 1.5 over 11 places (or fewer, if `length` is less), with
/// sum 1.
fn window(length: usize) -> Vec<f64> {
    const SIDE: usize = 11;
    const SIGMA: f64 = 1.5;
    let side = SIDE.min(length.max(1));
    let middle = (side as f64 - 1.0) / 2.0;
    let weights: Vec<f64> =
        (0..side).map(|i| (-(i as f64 - middle).powi(2) / (2.0 * SIGMA * SIGMA)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Weighted means at every place where the window fits, first along rows, then along columns.
fn blurred(values: &[f64], width: usize) -> Vec<f64> {
    let width = width.max(1);
    let across = window(width);
    let rows: Vec<Vec<f64>> = values
        .chunks_exact(width)
        .map(|row| row.windows(across.len()).map(|part| dot(part, &across)).collect())
        .collect();
    let down = window(rows.len());
    rows.windows(down.len())
        .flat_map(|part| {
            let columns = part.first().map_or(0, Vec::len);
            let down = &down;
            (0..columns)
                .map(move |x| part.iter().zip(down).map(|(row, w)| row.get(x).map_or(0.0, |v| v * w)).sum())
        })
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `‖a − b‖₂` and `‖a − b‖₂ / ‖b‖₂`. The ratio is 0 if `b` is 0. Both are NaN if a value is NaN.
pub(crate) fn l2(a: &[f32], b: &[f32]) -> (f64, f64) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let distance = norm(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    let length = norm(&mut b.iter().map(|&b| f64::from(b)));
    (distance, if length == 0.0 { 0.0 } else { distance / length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, value: impl Fn(usize, usize) -> u8) -> Picture {
        let mut picture = Picture::filled(width, height, [0; 3]);
        for y in 0..height {
            for x in 0..width {
                picture.set(x, y, [value(x, y); 3]);
            }
        }
        picture
    }

    #[test]
    fn psnr_of_known_errors() {
        let a = grey(16, 16, |x, y| (x * 7 + y * 3) as u8);
        assert_eq!(psnr(&a, &a), None);
        // every value differs by 5: 20 log10(255 / 5)
        let b = grey(16, 16, |x, y| (x * 7 + y * 3 + 5) as u8);
        assert!((psnr(&a, &b).unwrap() - 34.151_403_521_958_73).abs() < 1e-9);
        // one channel of one pixel differs by 255
        let mut c = a.clone();
        c.rgb[0] = 255;
        let expected = 10.0 * (16.0 * 16.0 * 3.0f64).log10();
        assert!((psnr(&a, &c).unwrap() - expected).abs() < 1e-9);
        assert_eq!(psnr(&a, &grey(8, 16, |_, _| 0)), None);
    }

    #[test]
    fn ssim_of_known_pictures() {
        let a = grey(32, 24, |x, y| (x * 8 + y * 3 % 7) as u8);
        assert!((ssim(&a, &a) - 1.0).abs() < 1e-12);
        // Flat pictures have no variance, so only the luminance term remains.
        let (flat, other) = (grey(20, 20, |_, _| 100), grey(20, 20, |_, _| 150));
        let c1 = 2.55f64 * 2.55;
        let expected = (2.0 * 100.0 * 150.0 + c1) / (100.0 * 100.0 + 150.0 * 150.0 + c1);
        assert!((ssim(&flat, &other) - expected).abs() < 1e-9, "{}", ssim(&flat, &other));
        // A checkerboard and its negative are anticorrelated.
        let board = grey(20, 20, |x, y| if (x + y) % 2 == 0 { 0 } else { 255 });
        let negative = grey(20, 20, |x, y| if (x + y) % 2 == 0 { 255 } else { 0 });
        assert!(ssim(&board, &negative) < -0.9, "{}", ssim(&board, &negative));
        assert!((ssim(&a, &board) - ssim(&board, &a)).abs() < 1e-12);
        assert_eq!(ssim(&a, &flat), 0.0);
        assert!(ssim(&grey(4, 4, |_, _| 9), &grey(4, 4, |_, _| 9)) > 0.999);
    }

    /// Compares with the definition: the whole two-dimensional window at every place.
    #[test]
    fn ssim_of_noise_is_the_definition() {
        let mut state = 7u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 24)
        };
        let (width, height) = (17, 14);
        let a: Vec<f64> = (0..width * height).map(|_| noise()).collect();
        let b: Vec<f64> = a.iter().map(|v| 0.6 * v + 0.4 * noise()).collect();
        let mut sum = 0.0;
        let (mut places, mut total) = (0.0, 0.0);
        for top in 0..=height - 11 {
            for left in 0..=width - 11 {
                let mut moments = [0.0; 6];
                for i in 0..11 {
                    for j in 0..11 {
                        let (dy, dx) = (i as f64 - 5.0, j as f64 - 5.0);
                        let weight = (-(dx * dx + dy * dy) / 4.5).exp();
                        let at = (top + i) * width + left + j;
                        let (x, y) = (a[at], b[at]);
                        for (moment, value) in moments.iter_mut().zip([1.0, x, y, x * x, y * y, x * y]) {
                            *moment += weight * value;
                        }
                    }
                }
                let [n, x, y, xx, yy, xy] = moments;
                let (x, y) = (x / n, y / n);
                let (vx, vy, cov) = (xx / n - x * x, yy / n - y * y, xy / n - x * y);
                let (c1, c2) = (6.5025, 58.5225);
                sum += (2.0 * x * y + c1) * (2.0 * cov + c2) / ((x * x + y * y + c1) * (vx + vy + c2));
                places += 1.0;
                total += cov;
            }
        }
        assert!(total > 0.0);
        assert!((ssim_grey(&a, &b, width) - sum / places).abs() < 1e-12);
    }

    /// Compares with scikit-image 0.26: `structural_similarity(…, gaussian_weights=True, sigma=1.5,
    /// use_sample_covariance=False, data_range=255)` of the luma, and `peak_signal_noise_ratio` of the pictures.
    #[test]
    fn both_agree_with_scikit_image() {
        let mut state = 7u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as usize
        };
        let (mut a, mut b) = (Picture::filled(40, 28, [0; 3]), Picture::filled(40, 28, [0; 3]));
        for y in 0..28 {
            for x in 0..40 {
                let n = noise();
                a.set(x, y, [6 * x + n / 8, 9 * y, 3 * x + 2 * y].map(|value| value as u8));
                let colour = [6 * x + noise() / 8, 9 * y + n / 16, 3 * x + 2 * y + n / 4];
                b.set(x, y, colour.map(|value| value as u8));
            }
        }
        assert!((ssim(&a, &b) - 0.951_833_759_015_104_4).abs() < 1e-9, "{}", ssim(&a, &b));
        assert!((psnr(&a, &b).unwrap() - 18.303_810_493_313_378).abs() < 1e-9);
    }

    #[test]
    fn l2_of_known_vectors() {
        assert_eq!(l2(&[3.0, 4.0], &[0.0, 0.0]), (5.0, 0.0));
        assert_eq!(l2(&[3.0, 0.0], &[0.0, 4.0]), (5.0, 1.25));
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::NAN, f32::NAN), (1.0, f32::INFINITY)] {
            let (_, relative) = l2(&[a, 1.0], &[b, 1.0]);
            assert!(relative.is_nan(), "{a} {b}: {relative}");
        }
    }
}
