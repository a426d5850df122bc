//! What weights do to the states of a chunk.

use atedm_core::{Result, Tensor};

use super::reading::{Chunk, Weighting};

/// The states `[1, length, channels]` of a chunk under its weights. `empty` are those of an empty prompt. The result is in
/// the accumulator of the states' dtype.
pub(crate) fn weigh<T: Tensor>(states: &T, chunk: &Chunk, weighting: Weighting, empty: &T) -> Result<T> {
    let dtype = states.dtype().accumulator();
    let states = states.cast(dtype)?;
    if !chunk.is_weighted() {
        return Ok(states);
    }
    let column = |values: &[f32]| T::from_f32(values, &[1, values.len(), 1], dtype, &states.device());
    let weights = &chunk.weights;
    match weighting {
        Weighting::KeepMean => {
            let weighted = states.mul(&column(weights)?)?;
            let factor = mean(&states)? / mean(&weighted)?;
            weighted.affine(factor, 0.0)
        }
        Weighting::FromEmpty => {
            let rest: Vec<f32> = weights.iter().map(|weight| 1.0 - weight).collect();
            let own = states.mul(&column(weights)?)?;
            own.add(&empty.cast(dtype)?.mul(&column(&rest)?)?)
        }
    }
}

/// The mean of all values, summed in f64.
fn mean<T: Tensor>(tensor: &T) -> Result<f64> {
    let values = tensor.to_f32()?;
    Ok(values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use atedm_core::DType;
    use atedm_core::reference::{NdDevice, NdTensor};

    use super::*;

    fn tensor(values: &[f32]) -> NdTensor {
        NdTensor::from_f32(values, &[1, 2, 2], DType::F32, &NdDevice).unwrap()
    }

    fn weighed(weights: [f32; 2], weighting: Weighting) -> Vec<f32> {
        let chunk = Chunk { ids: vec![0, 1], weights: weights.to_vec() };
        let (states, empty) = (tensor(&[1.0, 2.0, 3.0, 6.0]), tensor(&[1.0, 1.0, 2.0, 2.0]));
        weigh(&states, &chunk, weighting, &empty).unwrap().to_f32().unwrap()
    }

    #[test]
    fn weights_change_the_states_as_each_rule_says() {
        // 1, 2, 6, 12 have the mean 21/4; the states have 12/4
        let factor = 12.0 / 21.0;
        let expected = [1.0, 2.0, 6.0, 12.0].map(|value| value * factor);
        let kept = weighed([1.0, 2.0], Weighting::KeepMean);
        assert!(
            kept.iter().zip(expected).all(|(value, expected)| (value - expected).abs() < 1e-6),
            "{kept:?}"
        );
        // 2 + (3 - 2) / 2, 2 + (6 - 2) / 2
        assert_eq!(weighed([1.0, 0.5], Weighting::FromEmpty), [1.0, 2.0, 2.5, 4.0]);
        for weighting in [Weighting::KeepMean, Weighting::FromEmpty] {
            assert_eq!(weighed([1.0, 1.0], weighting), [1.0, 2.0, 3.0, 6.0]);
        }
    }
}
