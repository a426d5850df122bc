//! A LoRA as a caller asks for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use atedm_core::{Error, Result};

/// A LoRA file and how strongly it changes the model.
///
/// As a text it is `FILE` or `FILE:SCALE`.
///
/// ```
/// use atedm_sdxl::checkpoint::Lora;
///
/// let lora: Lora = "styles/ink.safetensors:0.8".parse()?;
/// assert_eq!(lora, Lora { scale: 0.8, ..Lora::new("styles/ink.safetensors") });
/// # Ok::<(), atedm_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// The safetensors file.
    pub path: PathBuf,
    /// The factor of every change. 1 is the strength that the file was trained for.
    pub scale: f64,
    /// Another factor for the changes of the text encoders.
    pub clip_scale: Option<f64>,
}

impl Lora {
    /// The file in full strength.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), scale: 1.0, clip_scale: None }
    }

    /// The file's name without its folders.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The factor of changes of the text encoders.
    pub fn text_scale(&self) -> f64 {
        self.clip_scale.unwrap_or(self.scale)
    }

    /// # Errors
    /// [`Error::Config`] if a scale is not finite.
    pub(super) fn check(&self) -> Result<()> {
        match [self.scale, self.text_scale()].into_iter().find(|scale| !scale.is_finite()) {
            Some(scale) => Err(self.error(format!("expected a finite scale, got {scale}"))),
            None => Ok(()),
        }
    }

    fn error(&self, reason: String) -> Error {
        Error::config(format!("lora {}", self.path.display()), reason)
    }
}

impl fmt::Display for Lora {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.scale)
    }
}

impl FromStr for Lora {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let split = text.rsplit_once(':').filter(|_| !Path::new(text).exists());
        let lora = match split {
            None => Self::new(text),
            Some((path, scale)) => match scale.parse() {
                Ok(scale) => Self { scale, ..Self::new(path) },
                Err(_) if Path::new(path).is_file() => {
                    return Err(
                        Self::new(path).error(format!("expected a number after the colon, got {scale:?}"))
                    );
                }
                Err(_) => Self::new(text),
            },
        };
        if lora.path.as_os_str().is_empty() {
            return Err(Error::config("lora", format!("expected FILE or FILE:SCALE, got {text:?}")));
        }
        lora.check()?;
        Ok(lora)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_file_and_a_scale() {
        let read = |text: &str| text.parse::<Lora>().unwrap();
        assert_eq!(read("a.safetensors"), Lora::new("a.safetensors"));
        assert_eq!(read("b:a.safetensors:-0.5"), Lora { scale: -0.5, ..Lora::new("b:a.safetensors") });
        assert_eq!(read(r"C:\a.safetensors"), Lora::new(r"C:\a.safetensors"));
        assert_eq!(read("a.safetensors:0.8").to_string(), "a.safetensors:0.8");
    }

    #[test]
    fn wrong_texts_are_refused_on_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        std::fs::write(&file, "").unwrap();
        let file = file.display();
        for (text, reason) in [
            (format!("{file}:much"), "expected a number after the colon, got \"much\""),
            ("a:NaN".into(), "lora a: expected a finite scale, got NaN"),
            ("a:inf".into(), "lora a: expected a finite scale, got inf"),
            (":1".into(), "lora: expected FILE or FILE:SCALE"),
            (String::new(), "lora: expected FILE or FILE:SCALE"),
        ] {
            let message = text.parse::<Lora>().unwrap_err().to_string();
            assert!(message.contains(reason) && !message.contains('\n'), "{message}");
        }
    }
}
