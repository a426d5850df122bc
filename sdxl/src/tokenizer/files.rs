//! Reads a tokenizer's files from a folder or from memory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};

use crate::config::Fields;
use crate::output::NamedFile;
use crate::text_file;

/// The files of one tokenizer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Files<'a> {
    /// The files in this folder.
    Folder(&'a Path),
    /// The files of this list.
    Held(&'a [NamedFile]),
}

impl Files<'_> {
    /// The place of the file `name`, for messages.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Held(_) => Path::new("built-in tokenizer").join(name),
        }
    }

    /// The text of `name`.
    pub(super) fn text(&self, name: &str) -> Result<String> {
        let path = self.path(name);
        let Self::Held(files) = self else { return text_file::read(path) };
        let found = files.iter().find(|(held, _)| held == name);
        let (_, bytes) = found.ok_or_else(|| Error::io(&path, ErrorKind::NotFound.into()))?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// The JSON object `name`.
    pub(super) fn fields(&self, name: &str) -> Result<Fields> {
        Fields::parse(&self.path(name), &self.text(name)?)
    }

    /// Like [`Files::fields`], but `None` if the file does not exist.
    pub(super) fn fields_if_there(&self, name: &str) -> Result<Option<Fields>> {
        match self.fields(name) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }
}
