//! Writes a checkpoint of an [`Architecture`] as a diffusers folder.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use atedm_core::{DType, Error, Result};
use half::f16;
use safetensors::tensor::{Dtype, TensorView};

use super::vocabulary::pretty;
use super::{Architecture, Parameter, Vocabulary};
use crate::checkpoint::Part;
use crate::config::Fields;
use crate::output::{NamedFile, write_folder};

/// The prefix of the name in `model_index.json`. It marks folders that this crate wrote.
const OURS: &str = "atedm-";

/// A checkpoint to be written, without its weights.
#[derive(Debug, Clone, Copy)]
pub struct Folder<'a> {
    /// The model's sizes.
    pub architecture: &'a Architecture,
    /// The vocabulary of both tokenizers.
    pub vocabulary: &'a Vocabulary,
    /// The name in `model_index.json`. A name that does not begin with `atedm-` gets that prefix.
    pub name: &'a str,
    /// The text of `README.md`.
    pub card: &'a str,
    /// The dtype of the weights: [`DType::F32`] or [`DType::F16`].
    pub dtype: DType,
}

impl Folder<'_> {
    /// The files: path below the folder, and content. `values` gives the values of each parameter, row-major. It is
    /// called part by part ([`Part::ALL`]), in the order of [`Architecture::parameters`].
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that do not fit together ([`Architecture::check`]) and for another dtype.
    /// [`Error::Weights`] naming a tensor whose number of values is wrong, or that is not finite in the dtype. The
    /// errors of `values`.
    pub fn files(
        &self,
        mut values: impl FnMut(Part, &Parameter) -> Result<Vec<f32>>,
    ) -> Result<Vec<NamedFile>> {
        self.architecture.check()?;
        if !matches!(self.dtype, DType::F32 | DType::F16) {
            return Err(Error::config("dtype", format!("expected f32 or f16, got {}", self.dtype)));
        }
        let mut files = vec![("README.md".to_string(), self.card.as_bytes().to_vec())];
        for (name, mut document) in self.architecture.documents(self.vocabulary) {
            if name == "model_index.json" {
                let name = self.name.strip_prefix(OURS).unwrap_or(self.name);
                document["_name_or_path"] = format!("{OURS}{name}").into();
            }
            files.push((name.to_string(), pretty(&document)));
        }
        for (folder, pad) in [("tokenizer", Vocabulary::END), ("tokenizer_2", Vocabulary::SIGN)] {
            for (name, content) in self.vocabulary.files(pad, self.architecture.context)? {
                files.push((format!("{folder}/{name}"), content));
            }
        }
        for part in Part::ALL {
            let name = format!("{}/{}.safetensors", part.folder(), part.stem());
            let content = self.weights(&name, part, &mut values)?;
            files.push((name, content));
        }
        Ok(files)
    }

    /// Writes the folder completely or not at all. In a folder that this crate wrote, files of the same names are
    /// replaced.
    ///
    /// # Errors
    /// The errors of [`Folder::files`] and [`check_place`]; [`Error::Io`] if the folder cannot be written.
    pub fn write(&self, dir: &Path, values: impl FnMut(Part, &Parameter) -> Result<Vec<f32>>) -> Result<()> {
        check_place(dir)?;
        write_folder(dir, &self.files(values)?)
    }

    /// The safetensors file of one part.
    fn weights(
        &self,
        file: &str,
        part: Part,
        values: &mut impl FnMut(Part, &Parameter) -> Result<Vec<f32>>,
    ) -> Result<Vec<u8>> {
        let mut tensors = Vec::new();
        for parameter in self.architecture.parameters(self.vocabulary, part) {
            let wrong = |reason: String| Error::weights(file, &parameter.name, reason);
            let values = values(part, &parameter)?;
            if values.len() != parameter.count() {
                let reason = format!("expected {} values, got {}", parameter.count(), values.len());
                return Err(wrong(reason));
            }
            let finite = |value: f32| match self.dtype {
                DType::F16 => f16::from_f32(value).is_finite(),
                _ => value.is_finite(),
            };
            if let Some(value) = values.iter().copied().find(|value| !finite(*value)) {
                return Err(wrong(format!("{value} is not finite in {}", self.dtype)));
            }
            let bytes: Vec<u8> = match self.dtype {
                DType::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            };
            tensors.push((parameter, bytes));
        }
        let stored = if self.dtype == DType::F16 { Dtype::F16 } else { Dtype::F32 };
        let failed = |error: safetensors::SafeTensorError| Error::weights(file, "", error.to_string());
        let mut views = Vec::with_capacity(tensors.len());
        for (Parameter { name, shape, .. }, bytes) in &tensors {
            views.push((name.as_str(), TensorView::new(stored, shape.clone(), bytes).map_err(failed)?));
        }
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize(views, Some(metadata)).map_err(failed)
    }
}

/// A tensor on the host, with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// The name in the file of its part.
    pub name: String,
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The values in row-major order.
    pub values: Vec<f32>,
}

/// The tensors of a part of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct PartTensors {
    /// The part.
    pub part: Part,
    /// Its tensors, in any order.
    pub tensors: Vec<NamedTensor>,
}

/// Makes the `values` argument of [`Folder::write`] from lists of tensors in any order.
///
/// The closure fails with [`Error::Weights`] for a tensor that is missing or has another shape.
pub fn listed(parts: &[PartTensors]) -> impl FnMut(Part, &Parameter) -> Result<Vec<f32>> {
    let tensors: HashMap<(Part, &str), &NamedTensor> = parts
        .iter()
        .flat_map(|of| of.tensors.iter().map(|tensor| ((of.part, tensor.name.as_str()), tensor)))
        .collect();
    move |part, parameter| {
        let wrong = |reason: String| Error::weights(part.folder(), &parameter.name, reason);
        match tensors.get(&(part, parameter.name.as_str())) {
            Some(found) if found.shape == parameter.shape => Ok(found.values.clone()),
            Some(found) => Err(wrong(format!("expected shape {:?}, got {:?}", parameter.shape, found.shape))),
            None => Err(wrong("is not among the tensors to write".to_string())),
        }
    }
}

/// Checks whether a checkpoint may be written to `dir`: the folder is new, empty, or was written by [`Folder::write`].
/// Training checks this before it begins.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn check_place(dir: &Path) -> Result<()> {
    let failed = |source| Error::io(dir, source);
    if !dir.try_exists().map_err(failed)? {
        return Ok(());
    }
    if fs::read_dir(dir).map_err(failed)?.next().is_none() {
        return Ok(());
    }
    let index = Fields::read(&dir.join("model_index.json")).ok();
    let name = index.as_ref().and_then(|index| index.text("_name_or_path").ok().flatten());
    if name.is_some_and(|name| name.starts_with(OURS)) {
        return Ok(());
    }
    let reason = "expected a new or an empty folder or a checkpoint of ours, got one with other files in it";
    Err(failed(std::io::Error::other(reason)))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use atedm_core::Tensor;
    use atedm_core::plugin::Unpruned;
    use atedm_core::reference::{NdDevice, Reference32};

    use super::*;
    use crate::architecture::tests::small;
    use crate::checkpoint::{Checkpoint, OpenOptions};
    use crate::pipeline::{Pipeline, Request};
    use crate::weights::random_values;

    /// Calls `then` with a small folder in `dtype`.
    fn written<T>(dtype: DType, then: impl FnOnce(Folder<'_>) -> T) -> T {
        let (architecture, vocabulary) = (small(), Vocabulary::of_words(["red", "circle"]));
        then(Folder { architecture: &architecture, vocabulary: &vocabulary, name: "t", card: "# T\n", dtype })
    }

    fn random(_: Part, parameter: &Parameter) -> Result<Vec<f32>> {
        Ok(random_values(1, &parameter.name, &parameter.shape))
    }

    /// The latents of an image after two steps. The image is decoded too.
    fn sampled(checkpoint: &Checkpoint) -> Vec<f32> {
        let pipeline = Pipeline::<Reference32>::load(checkpoint, DType::F32, &NdDevice).unwrap();
        let request = Request { steps: 2, ..Request::new(["a red circle"]) };
        let output = pipeline.generate(&request, &mut Unpruned, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(output.latents.shape(), [1, 3, 8, 8]);
        let images = output.images.unwrap();
        assert_eq!((images.width, images.height), (16, 16));
        output.latents.to_f32().unwrap()
    }

    #[test]
    fn our_loader_opens_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut latents = Vec::new();
        for dtype in [DType::F32, DType::F16] {
            let path = dir.path().join(dtype.to_string());
            written(dtype, |folder| folder.write(&path, random)).unwrap();
            let checkpoint = Checkpoint::open(&path, OpenOptions::default()).unwrap();
            assert_eq!(checkpoint.default_size(), Some(16));
            assert_eq!(checkpoint.tokenizers().unwrap()[0].encode("red circle").unwrap().ids.len(), 12);
            assert_eq!(fs::read_to_string(path.join("README.md")).unwrap(), "# T\n");
            latents.push(sampled(&checkpoint));
        }
        let difference = |(a, b): (&f32, &f32)| (a - b).abs();
        let worst = latents[0].iter().zip(&latents[1]).map(difference).fold(0.0, f32::max);
        // the same weights except for their last bits
        assert!(worst > 0.0 && worst < 0.05, "{worst}");
    }

    #[test]
    fn lists_are_found_by_part_and_name() {
        let (architecture, vocabulary) = (small(), Vocabulary::of_words(["red", "circle"]));
        let list = |part: &Part| {
            let parameters = architecture.parameters(&vocabulary, *part).into_iter().rev();
            let tensor = |p: Parameter| {
                let values = random(*part, &p).unwrap();
                NamedTensor { name: p.name, shape: p.shape, values }
            };
            PartTensors { part: *part, tensors: parameters.map(tensor).collect() }
        };
        let mut parts: Vec<PartTensors> = Part::ALL.iter().map(list).collect();
        let expected = written(DType::F32, |folder| folder.files(random)).unwrap();
        assert_eq!(written(DType::F32, |folder| folder.files(listed(&parts))).unwrap(), expected);
        parts[2].tensors[0].shape.push(1);
        let error = written(DType::F32, |folder| folder.files(listed(&parts))).unwrap_err().to_string();
        assert_eq!(error, "unet: conv_out.bias: expected shape [3], got [3, 1]");
        parts[2].tensors.remove(0);
        let error = written(DType::F32, |folder| folder.files(listed(&parts))).unwrap_err().to_string();
        assert_eq!(error, "unet: conv_out.bias: is not among the tensors to write");
    }

    #[test]
    fn folders_of_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        check_place(&path).unwrap();
        written(DType::F32, |folder| folder.write(&path, random)).unwrap();
        fs::write(path.join("log.txt"), "kept").unwrap();
        written(DType::F16, |folder| folder.write(&path, random)).unwrap();
        assert_eq!(fs::read_to_string(path.join("log.txt")).unwrap(), "kept");
        let refused = |index: &str| {
            fs::write(path.join("model_index.json"), index).unwrap();
            let error = written(DType::F32, |folder| folder.write(&path, random)).unwrap_err();
            assert!(error.to_string().contains("model: expected a new or an empty folder"), "{error}");
        };
        refused(r#"{"_name_or_path": "stable-diffusion-xl"}"#);
        refused("{");
        fs::remove_file(path.join("model_index.json")).unwrap();
        assert!(check_place(&path).is_err());
        assert!(check_place(&path.join("log.txt")).is_err());
    }

    #[test]
    fn wrong_values_name_their_tensor() {
        let failing = |dtype: DType, value: f32, more: usize| {
            let values = |part: Part, parameter: &Parameter| {
                let mut values = random(part, parameter)?;
                if parameter.name == "conv_in.weight" {
                    values[3] = value;
                    values.extend(vec![0.0; more]);
                }
                Ok(values)
            };
            written(dtype, |folder| folder.files(values)).unwrap_err().to_string()
        };
        let start = "unet/diffusion_pytorch_model.safetensors: conv_in.weight: ";
        assert_eq!(failing(DType::F16, 7e4, 0), format!("{start}70000 is not finite in f16"));
        assert_eq!(failing(DType::F32, f32::NAN, 0), format!("{start}NaN is not finite in f32"));
        assert_eq!(failing(DType::F32, 7e4, 1), format!("{start}expected 216 values, got 217"));
        assert!(failing(DType::BF16, 0.0, 0).starts_with("dtype: expected f32 or f16"));
    }
}
