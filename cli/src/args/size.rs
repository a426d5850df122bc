//! The size of a picture.

use atedm_experiment::model::{AskedPixels, AskedSize};
use clap::Args;

use super::parse;

/// The size of a picture.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct SizeArgs {
    /// Width in pixels [default: the checkpoint's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) width: Option<usize>,
    /// Height in pixels [default: the checkpoint's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) height: Option<usize>,
}

impl SizeArgs {
    /// The size with the flags' names.
    pub(crate) fn asked(self) -> AskedSize<'static> {
        AskedSize {
            width: AskedPixels { key: "--width", pixels: self.width },
            height: AskedPixels { key: "--height", pixels: self.height },
        }
    }
}
