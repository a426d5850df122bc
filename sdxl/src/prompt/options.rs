//! How a run reads its texts.

/// The syntax that reads a prompt as plain text.
pub const PLAIN: &str = "none";

/// How texts are read and encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextOptions {
    /// The name of the syntax in the [registry](super::SyntaxRegistry).
    pub syntax: String,
    /// How many more of the text encoders' last layers are left out, as diffusers counts them. SD-XL always leaves out the
    /// last one; 1 leaves out the one before it too. As in diffusers, this does not apply to negative prompts.
    pub clip_skip: usize,
}

impl TextOptions {
    /// The options for negative prompts.
    #[must_use]
    pub fn for_negative(&self) -> Self {
        Self { clip_skip: 0, ..self.clone() }
    }
}

impl Default for TextOptions {
    /// Plain text, and the layers that SD-XL was trained with.
    fn default() -> Self {
        Self { syntax: PLAIN.to_string(), clip_skip: 0 }
    }
}
