//! Opens an autoencoder without a checkpoint.

use std::path::Path;

use atedm_core::{Backend, DType, DeviceOf, Result, Weights};

use super::part::Other;
use super::vae::vae;
use crate::vae::Vae;
use crate::weights::SafetensorsSource;

/// Opens an autoencoder without a checkpoint: a folder or a file, as [`crate::checkpoint::OpenOptions::vae`] takes it. It runs in the
/// returned dtype if everything else runs in `dtype`.
///
/// # Errors
/// [`atedm_core::Error::Io`], [`atedm_core::Error::Weights`] or [`atedm_core::Error::Config`] naming the file that is missing, broken or something else.
pub fn open_vae<B: Backend>(path: &Path, dtype: DType, device: &DeviceOf<B>) -> Result<(Vae<B>, DType)> {
    let Other { config, files, .. } = vae(path, None)?;
    let dtype = Vae::<B>::dtype_beside(&config, dtype);
    let source = SafetensorsSource::<DeviceOf<B>>::open(&files, dtype, device.clone())?;
    Ok((Vae::load(&Weights::new(source), &config)?, dtype))
}
