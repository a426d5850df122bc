"""The arithmetic of quality measures, on NumPy alone. Every measure takes bootstrap weights and gives one value for each row of them.

The bootstrap is Rubin's (The Bayesian bootstrap, 1981). A replicate gives every item a weight drawn from Exp(1) instead of a number
of copies. Copies would put k(x, x) between two draws of one picture, which biases KID. Weights leave no such pairs. A picture that
is in both sets under one name gets one weight in both, so that pairs are resampled as pairs.
"""

import numpy as np

BLOCK = 1024
"""The maximum number of rows of a kernel matrix in memory."""


def bootstrap_weights(count, replicates, seed):
    """Weights `[1 + replicates, count]` in f64. The first row is all ones and gives the estimate itself; the others are Exp(1)."""
    draws = np.random.default_rng(seed).standard_exponential((replicates, count))
    return np.concatenate([np.ones((1, count)), draws])


def interval(values):
    """The value of a measure, and the 2.5 % and 97.5 % quantiles of its replicates, from its values `[1 + replicates]`."""
    low, high = np.quantile(values[1:], [0.025, 0.975]) if len(values) > 1 else (np.nan, np.nan)
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def weighted_means(values, weights):
    """Weighted means `[rows]` of values `[items]` under weights `[rows, items]`."""
    return weights @ np.asarray(values, dtype=np.float64) / weights.sum(axis=1)


def _mean_kernel(a, b, weights_a, weights_b, left_out):
    """Weighted mean of (x·y / d + 1)³ over all pairs except (i, left_out[i]). -1 leaves out none."""
    sums = np.zeros(len(weights_a))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        kernel = (a[rows] @ b.T / a.shape[1] + 1) ** 3
        out = left_out[rows]
        kernel[np.flatnonzero(out >= 0), out[out >= 0]] = 0
        sums += np.einsum("rj,rj->r", weights_a[:, rows] @ kernel, weights_b)
    kept = left_out >= 0
    pairs = weights_a.sum(axis=1) * weights_b.sum(axis=1)
    pairs -= np.einsum("ri,ri->r", weights_a[:, kept], weights_b[:, left_out[kept]])
    return sums / pairs


def kid(a, b, weights_a, weights_b, partners=None):
    """Kernel Inception Distance's estimator on any features. It is the unbiased squared maximum mean discrepancy under the polynomial
    kernel k(x, y) = (x·y / d + 1)³ (Binkowski, Sutherland, Arbel, Gretton, Demystifying MMD GANs, 2018, section 4):

        KID = mean k(x_i, x_j), i ≠ j  +  mean k(y_i, y_j), i ≠ j  -  2 mean k(x_i, y_j)

    It covers all pictures, not subsets. It may be negative. `partners[i]` is the place in b of the picture that has the noise or the
    caption of a's picture i, or -1. Two such pictures depend on each other, so their terms are left out. The paired estimator of
    Gretton et al. leaves out i = j in the same way (A kernel two-sample test, 2012, equation 4). With these terms, a pruned model
    would look better than equal to its own unpruned pictures.

    Features are `[n, d]` and `[m, d]`, weights `[rows, n]` and `[rows, m]`; the result is `[rows]`. The mean of the replicates is the
    estimate. If both sets have the same distribution, the interval is too wide rather than too narrow.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    partners = np.full(len(a), -1) if partners is None else partners
    itself = [np.arange(len(x)) for x in (a, b)]
    return (_mean_kernel(a, a, weights_a, weights_a, itself[0]) + _mean_kernel(b, b, weights_b, weights_b, itself[1])
            - 2 * _mean_kernel(a, b, weights_a, weights_b, partners))


def moments(features, weights):
    """Mean `[d]` and unbiased covariance `[d, d]` of features `[n, d]` under one row of weights `[n]`."""
    total = weights.sum()
    mean = weights @ features / total
    deviations = (features - mean) * np.sqrt(weights)[:, None]
    return mean, deviations.T @ deviations / (total - (weights**2).sum() / total)


def frechet(mean_a, covariance_a, mean_b, covariance_b):
    """Fréchet distance of two Gaussians (Heusel et al., GANs trained by a two time-scale update rule, 2017, equation 6):

        |m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½)

    The trace of the root is the sum of the roots of the eigenvalues of C_a^½ C_b C_a^½. That matrix is symmetric, so no value becomes
    complex, and no small number is added to a diagonal.
    """
    values, vectors = np.linalg.eigh(covariance_a)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariance_b @ root)
    traces = np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(np.clip(product, 0, None)).sum()
    difference = mean_a - mean_b
    return float(difference @ difference + traces)


def frechet_distances(a, b, weights_a, weights_b):
    """Fréchet distances `[rows]` of features `[n, d]` and `[m, d]`. The replicates have twice the bias of the estimate (it falls as
    1 / n). So they are moved until their mean is the estimate, and the interval is about the value at this n."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    values = np.array([frechet(*moments(a, x), *moments(b, y)) for x, y in zip(weights_a, weights_b)])
    if len(values) > 1:
        values[1:] += values[0] - values[1:].mean()
    return values


def cosines(a, b):
    """Cosines `[n]` of features `[n, d]`, row by row; 0 for a row of zeros."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.einsum("nd,nd->n", a, b) / np.where(lengths > 0, lengths, 1)


def psnr(a, b):
    """Peak signal-to-noise ratio of 8-bit pictures `[height, width, 3]`: 10 log₁₀(255² / MSE) dB; infinite where equal."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")


def _blurred(values, side):
    """Means under a separable Gaussian window of σ = 1.5, at all places where it fits."""
    for axis in (0, 1):
        length = min(side, values.shape[axis])
        places = np.arange(length) - (length - 1) / 2
        weights = np.exp(-(places**2) / (2 * 1.5**2))
        windows = np.lib.stride_tricks.sliding_window_view(values, length, axis=axis)
        values = windows @ (weights / weights.sum())
    return values


def ssim(a, b):
    """Structural similarity of 8-bit pictures `[height, width, 3]` in grey (Wang, Bovik, Sheikh, Simoncelli, Image quality
    assessment: from error visibility to structural similarity, 2004):

        (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a² + m_b² + c1)(s_a² + s_b² + c2)),  c1 = (0.01·255)², c2 = (0.03·255)²

    The Gaussian window is 11 × 11 with σ = 1.5. The mean is over the places where it fits. `atedm compare` prints the same value.
    """
    a, b = (x.astype(np.float64) @ [0.299, 0.587, 0.114] for x in (a, b))
    mean_a, mean_b, aa, bb, ab = (_blurred(x, 11) for x in (a, b, a * a, b * b, a * b))
    variances, covariance = aa - mean_a**2 + bb - mean_b**2, ab - mean_a * mean_b
    c1, c2 = 2.55**2, 7.65**2
    return float(np.mean((2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))))
