//! The picture that a ControlNet follows.

use std::path::PathBuf;

use atedm_core::{Backend, Tensor};
use atedm_sdxl::pipeline::{Control, ControlSpan, Pipeline};

use crate::failure::{Failure, Outcome};
use crate::files::{Backdrop, DATA_MOST, Fitted, read_bytes, read_picture};
use crate::init_image::Strength;
use crate::inputs::digest;
use crate::method::ControlSteps;
use crate::model::Size;
use crate::parts::name_of;
use crate::record::UsedControl;

/// The choice of a picture for the model's ControlNet.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlPicture {
    /// The picture: a PNG, JPEG or WebP.
    pub image: PathBuf,
    /// The factor of the ControlNet's outputs: 1 as trained.
    pub scale: f64,
    /// The steps at which it runs.
    pub span: ControlSpan,
}

impl ControlPicture {
    /// A picture with diffusers' defaults for what is `None`: scale 1, and every step from share 0 to share 1.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a scale that is not finite, or shares that do not rise from 0 to 1.
    pub fn new(image: PathBuf, scale: Option<f64>, [start, end]: [Option<f64>; 2]) -> Outcome<Self> {
        let scale = scale.unwrap_or(1.0);
        if !scale.is_finite() {
            return Err(Failure::usage(format!("control-scale: expected a finite number, got {scale}")));
        }
        let span = ControlSpan::new(start.unwrap_or(0.0), end.unwrap_or(1.0))?;
        Ok(Self { image, scale, span })
    }

    /// The choice as records name it, with a hash of the picture.
    ///
    /// # Errors
    /// [`Failure::Run`] naming the file.
    pub fn used(&self) -> Outcome<UsedControl> {
        Ok(UsedControl {
            image: name_of(&self.image),
            hash: digest(&read_bytes(&self.image, DATA_MOST)?),
            scale: self.scale,
            start: self.span.start(),
            end: self.span.end(),
        })
    }

    /// Reads the picture and fits it to the run's `size` ([`read_picture`]).
    ///
    /// # Errors
    /// [`Failure::Run`] naming the file.
    pub fn read(self, size: Size) -> Outcome<ControlImage> {
        let picture = read_picture(&self.image, size, Backdrop::White)?;
        Ok(ControlImage { chosen: self, picture })
    }
}

/// When a ControlNet runs in a run of `steps` steps. `strength` is that of a run that starts from a picture.
pub(crate) fn steps(
    used: Option<&UsedControl>,
    strength: Option<Strength>,
    steps: usize,
) -> Outcome<ControlSteps> {
    let span = used.map(|used| ControlSpan::new(used.start, used.end)).transpose()?;
    // A strength that leaves no step is refused before the run.
    let first = strength.and_then(|strength| strength.start(steps).ok());
    Ok(ControlSteps { span: span.unwrap_or(ControlSpan::WHOLE), first: first.unwrap_or(0) })
}

/// A picture for a ControlNet, in the size of the run.
#[derive(Debug, Clone)]
pub struct ControlImage {
    chosen: ControlPicture,
    picture: Fitted,
}

impl ControlImage {
    /// What was done to fit the picture to the run, in one line. `None` if it had the run's size.
    pub fn note(&self) -> Option<String> {
        self.picture.note().map(|note| format!("{}: {note}", self.chosen.image.display()))
    }

    /// The picture as the pipeline takes it: values from 0 to 1.
    pub(crate) fn request<B: Backend>(&self, pipeline: &Pipeline<B>) -> Outcome<Control<B::Tensor>> {
        let ControlPicture { scale, span, .. } = self.chosen;
        let (picture, size) = (&self.picture.picture, self.picture.picture.size());
        let values: Vec<f32> = picture.planes().map(|value| f32::from(value) / 255.0).collect();
        let shape = [1, 3, size.height, size.width];
        let picture = B::Tensor::from_f32(&values, &shape, pipeline.dtype(), pipeline.device())?;
        Ok(Control { picture, scale, span })
    }
}
