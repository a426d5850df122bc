//! The results of earlier steps, by place and by row of the batch.

use std::collections::HashMap;
use std::hash::Hash;

use atedm_core::plugin::{Row, Run};
use atedm_core::{Error, Result, Tensor};

/// Tensors `[rows, ..]` by place. A row is stored under its image and guidance half, independent of its batch.
#[derive(Debug)]
pub struct Memory<K, T> {
    places: HashMap<K, Vec<Kept<T>>>,
}

/// A stored tensor, and the position of each row in it.
#[derive(Debug)]
struct Kept<T> {
    at: Vec<(Row, usize)>,
    value: T,
}

impl<K, T> Default for Memory<K, T> {
    fn default() -> Self {
        Self { places: HashMap::new() }
    }
}

impl<K: Eq + Hash, T: Tensor> Memory<K, T> {
    /// Removes everything.
    pub fn clear(&mut self) {
        self.places.clear();
    }

    /// Stores `value` `[rows, ..]`. It replaces earlier values of these rows.
    ///
    /// # Errors
    /// [`Error::Shape`] if `value` has another number of rows.
    pub fn keep(&mut self, place: K, rows: &[Row], value: &T) -> Result<()> {
        let shape = value.shape();
        if shape.first() != Some(&rows.len()) {
            return Err(Error::shape("a memory of rows", format!("[{}, ..]", rows.len()), shape));
        }
        self.keep_at(place, rows.iter().copied().zip(0..).collect(), value.clone());
        Ok(())
    }

    /// Stores the mean over the halves of guidance. All rows of an image then have the same value.
    ///
    /// # Errors
    /// The errors of [`Memory::keep`].
    pub fn keep_mean(&mut self, place: K, rows: &[Row], value: &T) -> Result<()> {
        let mut images: Vec<u64> = Vec::new();
        let mut image_of = |row: &Row| match images.iter().position(|&image| image == row.image) {
            Some(at) => at,
            None => {
                images.push(row.image);
                images.len() - 1
            }
        };
        let at: Vec<(Row, usize)> = rows.iter().map(|row| (*row, image_of(row))).collect();
        if images.len() == rows.len() {
            return self.keep(place, rows, value);
        }
        let one = |image: usize| -> Result<T> {
            let of_image = at.iter().enumerate().filter(|(_, (_, other))| *other == image);
            let halves = of_image.map(|(row, _)| value.narrow(0, row, 1)).collect::<Result<Vec<T>>>()?;
            let Some((first, rest)) = halves.split_first() else { return value.narrow(0, 0, 1) };
            let sum = rest.iter().try_fold(first.clone(), |sum, half| sum.add(half))?;
            sum.affine(1.0 / halves.len() as f64, 0.0)
        };
        let means = (0..images.len()).map(one).collect::<Result<Vec<T>>>()?;
        let mean = T::concat(&means.iter().collect::<Vec<_>>(), 0)?;
        self.keep_at(place, at, mean);
        Ok(())
    }

    fn keep_at(&mut self, place: K, at: Vec<(Row, usize)>, value: T) {
        let kept = self.places.entry(place).or_default();
        for old in kept.iter_mut() {
            old.at.retain(|(row, _)| !at.iter().any(|(new, _)| new == row));
        }
        kept.retain(|old| !old.at.is_empty());
        kept.push(Kept { at, value });
    }

    /// Whether all of these rows are stored here.
    pub fn has(&self, place: &K, rows: &[Row]) -> bool {
        rows.iter().all(|row| self.find(place, row).is_some())
    }

    /// The stored values of these rows `[rows, ..]`. `None` unless all of them are stored.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn recall(&self, place: &K, rows: &[Row]) -> Result<Option<T>> {
        let Some(found) = rows.iter().map(|row| self.find(place, row)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let Some(&(first, _)) = found.first() else { return Ok(None) };
        let is_whole = first.value.shape().first() == Some(&rows.len())
            && found.iter().enumerate().all(|(i, &(kept, at))| std::ptr::eq(kept, first) && at == i);
        if is_whole {
            return Ok(Some(first.value.clone()));
        }
        let each = found.iter().map(|(kept, at)| kept.value.narrow(0, *at, 1)).collect::<Result<Vec<T>>>()?;
        T::concat(&each.iter().collect::<Vec<_>>(), 0).map(Some)
    }

    fn find(&self, place: &K, row: &Row) -> Option<(&Kept<T>, usize)> {
        let mut all = self.places.get(place)?.iter();
        all.find_map(|kept| kept.at.iter().find(|(of, _)| of == row).map(|(_, at)| (kept, *at)))
    }

    /// Bytes of all stored tensors.
    pub fn bytes(&self) -> usize {
        let of = |kept: &Kept<T>| {
            kept.value.shape().iter().product::<usize>() * kept.value.dtype().size_in_bytes()
        };
        self.places.values().flatten().map(of).sum()
    }
}

/// Counts the steps of a run from its first step, as the authors' programs do. A run that starts from an image begins
/// late in the schedule.
#[derive(Debug, Default)]
pub(crate) struct StepCounter {
    first: usize,
}

impl StepCounter {
    /// Starts a run.
    pub(crate) fn begin(&mut self, run: &Run<'_>) {
        self.first = run.first;
    }

    /// The number of a step in this run, from its index in the full schedule.
    pub(crate) fn number(&self, index: usize) -> usize {
        index.saturating_sub(self.first)
    }
}

#[cfg(test)]
mod tests {
    use atedm_core::DType;
    use atedm_core::plugin::Branch;
    use atedm_core::reference::{NdDevice, NdTensor};

    use super::*;

    fn row(image: u64, branch: Branch) -> Row {
        Row { image, branch }
    }

    fn tensor(values: &[f32]) -> NdTensor {
        NdTensor::from_f32(values, &[values.len(), 1], DType::F32, &NdDevice).unwrap()
    }

    fn recalled(memory: &Memory<u8, NdTensor>, rows: &[Row]) -> Option<Vec<f32>> {
        memory.recall(&0, rows).unwrap().map(|value| value.to_f32().unwrap())
    }

    #[test]
    fn rows_are_found_in_any_order_and_the_latest_counts() {
        let rows = Row::singles(3);
        let mut memory = Memory::default();
        memory.keep(0, &rows, &tensor(&[1.0, 2.0, 3.0])).unwrap();
        assert_eq!(recalled(&memory, &rows), Some(vec![1.0, 2.0, 3.0]));
        memory.keep(0, &rows[1..2], &tensor(&[5.0])).unwrap();
        assert_eq!(recalled(&memory, &[rows[2], rows[1]]), Some(vec![3.0, 5.0]));
        assert_eq!(recalled(&memory, &[rows[0], row(0, Branch::Cond)]), None);
        assert!(memory.recall(&1, &rows).unwrap().is_none());
        assert_eq!(memory.bytes(), 16);
        memory.keep(0, &rows, &tensor(&[0.0, 0.0, 0.0])).unwrap();
        assert_eq!(memory.bytes(), 12);
        memory.clear();
        assert_eq!((recalled(&memory, &rows[..1]), memory.bytes()), (None, 0));
    }

    #[test]
    fn halves_of_an_image_remember_their_mean() {
        let rows =
            [row(0, Branch::Uncond), row(1, Branch::Uncond), row(0, Branch::Cond), row(1, Branch::Cond)];
        let mut memory = Memory::default();
        memory.keep_mean(0, &rows, &tensor(&[1.0, 2.0, 5.0, 8.0])).unwrap();
        assert_eq!(recalled(&memory, &rows), Some(vec![3.0, 5.0, 3.0, 5.0]));
        assert_eq!(recalled(&memory, &rows[..2]), Some(vec![3.0, 5.0]));
        assert_eq!(memory.bytes(), 8);
        memory.keep_mean(0, &rows[..1], &tensor(&[9.0])).unwrap();
        assert_eq!(recalled(&memory, &rows), Some(vec![9.0, 5.0, 3.0, 5.0]));
    }

    #[test]
    fn a_tensor_of_other_rows_is_refused() {
        let mut memory = Memory::default();
        let error = memory.keep(0, &Row::singles(2), &tensor(&[1.0])).unwrap_err();
        assert_eq!(error.to_string(), "a memory of rows: expected [2, ..], got shape [1, 1]");
    }

    #[test]
    fn steps_are_counted_from_the_first() {
        let mut steps = StepCounter::default();
        assert_eq!(steps.number(4), 4);
        steps.begin(&Run { first: 4, ..Run::new(10, 0, &[]) });
        assert_eq!([4, 5, 9].map(|index| steps.number(index)), [0, 1, 5]);
    }
}
