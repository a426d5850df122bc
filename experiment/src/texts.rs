//! Prompts before a run: whether they can be read, and how long they are for the U-Net.

use std::cell::RefCell;
use std::fmt;

use atedm_sdxl::checkpoint::Checkpoint;
use atedm_sdxl::config::TextEncoderConfig;
use atedm_sdxl::prompt::{PLAIN, SyntaxRegistry, TextOptions, looks_weighted};
use atedm_sdxl::tokenizer::ClipTokenizer;

use crate::extension::Extension;
use crate::failure::{Failure, Outcome};
use crate::listener::Listener;
use crate::sampling::Sampling;

/// Letters of a prompt that a message quotes.
const SHOWN: usize = 40;

/// The tokenizers of a checkpoint, and the syntaxes that prompts may have.
pub struct Texts {
    tokenizers: [ClipTokenizer; 2],
    encoders: [TextEncoderConfig; 2],
    syntaxes: SyntaxRegistry,
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Texts").field("syntaxes", &self.syntaxes).finish_non_exhaustive()
    }
}

impl Texts {
    /// Opens the tokenizers of a checkpoint.
    ///
    /// # Errors
    /// [`Failure::Run`] naming a file that is missing or broken, or the word of an embedding that a tokenizer has already.
    pub fn of(checkpoint: &Checkpoint) -> Outcome<Self> {
        Ok(Self {
            tokenizers: checkpoint.tokenizers().map_err(Failure::run)?,
            encoders: checkpoint.text_encoders().map(Clone::clone),
            syntaxes: SyntaxRegistry::with_builtins(),
        })
    }

    /// Adds an extension's syntaxes to the known ones.
    ///
    /// # Errors
    /// [`Failure::Usage`] if a name is taken.
    pub fn extended(mut self, extension: &impl Extension) -> Outcome<Self> {
        extension.syntaxes(&mut self.syntaxes)?;
        Ok(self)
    }

    /// The known syntaxes.
    pub fn syntaxes(&self) -> &SyntaxRegistry {
        &self.syntaxes
    }

    /// Tokens of a prompt in one chunk.
    pub fn chunk(&self) -> usize {
        self.tokenizers[0].length()
    }

    /// Reads prompts, and returns the tokens of the longest one.
    ///
    /// # Errors
    /// [`Failure::Usage`] for an unknown syntax, a `clip_skip` that leaves no layer, and for a prompt that the syntax cannot read.
    pub fn length<'p>(
        &self,
        prompts: impl IntoIterator<Item = &'p str>,
        options: &TextOptions,
    ) -> Outcome<usize> {
        let syntax = self.syntaxes.get(&options.syntax)?;
        self.encoders.iter().try_for_each(|encoder| encoder.check_skip(options.clip_skip))?;
        let mut chunks = 1;
        for prompt in prompts {
            for tokenizer in &self.tokenizers {
                let reading = syntax.read(prompt, tokenizer);
                let reading =
                    reading.map_err(|error| Failure::from(error).within(format!("{:?}", shown(prompt))))?;
                chunks = chunks.max(reading.chunks.len());
            }
        }
        Ok(chunks * self.chunk())
    }

    /// Warns of prompts that do not fit the text encoders, before anything runs. Warns once if a prompt has weights that its
    /// syntax does not read; `key` names the setting of the syntax.
    ///
    /// # Errors
    /// The errors of [`Texts::length`].
    pub fn warn<'p>(
        &self,
        prompts: impl IntoIterator<Item = &'p str>,
        options: &TextOptions,
        key: &str,
        listener: &dyn Listener,
    ) -> Outcome {
        let syntax = self.syntaxes.get(&options.syntax)?;
        let mut weighted = None;
        for prompt in prompts {
            for (number, tokenizer) in self.tokenizers.iter().enumerate() {
                let (cut, context) = (syntax.read(prompt, tokenizer)?.cut, tokenizer.length());
                if cut > 0 {
                    let encoder = number + 1;
                    listener.warning(&format!(
                        "text encoder {encoder} takes {context} tokens: the last {cut} of {prompt:?} are cut off"
                    ));
                    break;
                }
            }
            if options.syntax == PLAIN && looks_weighted(prompt) {
                weighted.get_or_insert(prompt);
            }
        }
        if let Some(prompt) = weighted {
            listener.warning(&format!(
                "{key}: the weights in {:?} are read as text; a1111 would read them as weights",
                shown(prompt)
            ));
        }
        Ok(())
    }
}

/// The lengths of a run's texts under its samplings. Each text is read once for each way to read it.
pub(crate) struct Lengths<'a> {
    texts: Option<&'a Texts>,
    /// The length where nothing can be read.
    chunk: usize,
    prompts: Vec<&'a str>,
    known: RefCell<Vec<(Sampling, usize)>>,
}

impl<'a> Lengths<'a> {
    /// The lengths of these prompts. Without `texts`, each has `chunk` tokens.
    pub(crate) fn new(texts: Option<&'a Texts>, chunk: usize, prompts: Vec<&'a str>) -> Self {
        Self { texts, chunk, prompts, known: RefCell::default() }
    }

    /// Tokens of the longest text under this sampling, so that a budget holds for every prompt.
    ///
    /// # Errors
    /// The errors of [`Texts::length`].
    pub(crate) fn of(&self, sampling: &Sampling) -> Outcome<usize> {
        let Some(texts) = self.texts else { return Ok(self.chunk) };
        let same = |known: &&(Sampling, usize)| {
            known.0.text == sampling.text && known.0.negative_prompt == sampling.negative_prompt
        };
        if let Some((_, length)) = self.known.borrow().iter().find(same) {
            return Ok(*length);
        }
        let all = self.prompts.iter().copied().chain(sampling.negative_prompt.as_deref());
        let length = texts.length(all, &sampling.text)?;
        self.known.borrow_mut().push((sampling.clone(), length));
        Ok(length)
    }
}

/// The beginning of a prompt.
fn shown(prompt: &str) -> String {
    let mut shown: String = prompt.chars().take(SHOWN).collect();
    if shown.len() < prompt.len() {
        shown.push('…');
    }
    shown
}
