//! A hash over samples of tensors.

use sha2::{Digest, Sha256};

use crate::weights::SafetensorsSource;

/// Tensors of at most this many bytes are read completely.
const WHOLE: usize = 16 << 10;
/// Bytes that are read at the start, in the middle and at the end of a larger tensor.
const SAMPLE: usize = 4 << 10;

/// A hash of fields. Each field follows its length, so different lists of fields are different bytes.
#[derive(Default)]
pub(crate) struct Sampled(Sha256);

impl Sampled {
    /// Adds these bytes.
    pub(super) fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds the sizes of the files, and every tensor's name, dtype, shape and samples of its bytes.
    pub(super) fn source<D>(&mut self, source: &SafetensorsSource<D>) {
        source.expect_samples();
        for size in source.file_sizes() {
            self.field(&(size as u64).to_le_bytes());
        }
        for tensor in source.stored() {
            self.field(tensor.name.as_bytes());
            self.field(format!("{:?} {:?}", tensor.dtype, tensor.shape).as_bytes());
            samples(tensor.bytes).for_each(|sample| self.field(sample));
        }
    }

    /// SHA-256 of all fields, in 64 hexadecimal digits.
    pub(super) fn digits(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The whole tensor, or its start, middle and end.
fn samples(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let length = bytes.len();
    let (size, starts) = match length <= WHOLE {
        true => (length, vec![0]),
        false => (SAMPLE, vec![0, (length - SAMPLE) / 2, length - SAMPLE]),
    };
    starts.into_iter().filter_map(move |at| bytes.get(at..at + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tensors_are_sampled_whole_and_large_ones_in_three_places() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(samples(&bytes[..WHOLE]).collect::<Vec<_>>(), [&bytes[..WHOLE]]);
        let places = [0, 47_952, 95_904].map(|at| &bytes[at..at + SAMPLE]);
        assert_eq!(samples(&bytes).collect::<Vec<_>>(), places);
        assert_eq!(samples(&[]).count(), 1);
    }

    #[test]
    fn fields_do_not_run_together() {
        let sum = |fields: &[&[u8]]| {
            let mut sum = Sampled::default();
            fields.iter().for_each(|field| sum.field(field));
            sum.digits()
        };
        assert_ne!(sum(&[b"ab", b"c"]), sum(&[b"a", b"bc"]));
        assert_ne!(sum(&[b"a"]), sum(&[b"a", b""]));
    }
}
