//! Syntaxes of prompts by name.

use std::fmt;
use std::sync::Arc;

use atedm_core::Result;
use atedm_core::plugin::options::Named;

use super::a1111::A1111;
use super::compel::Compel;
use super::options::PLAIN;
use super::plain::Plain;
use super::syntax::PromptSyntax;

/// The syntaxes that a run can name.
#[derive(Clone)]
pub struct SyntaxRegistry {
    names: Named<Arc<dyn PromptSyntax>>,
}

impl SyntaxRegistry {
    /// The syntaxes of this crate: `none`, `a1111` and `compel`.
    pub fn with_builtins() -> Self {
        let builtins: [(&str, Arc<dyn PromptSyntax>); 3] =
            [(PLAIN, Arc::new(Plain)), ("a1111", Arc::new(A1111)), ("compel", Arc::new(Compel))];
        let mut names = Named::new("prompt_syntax");
        names.extend(builtins.map(|(name, syntax)| (name.to_string(), syntax)));
        Self { names }
    }

    /// Adds a syntax under a name.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] if the name is taken or empty.
    pub fn register(&mut self, name: &str, syntax: impl PromptSyntax + 'static) -> Result<()> {
        self.names.insert(name, Arc::new(syntax))
    }

    /// The syntax of this name.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] with the field `prompt_syntax`, listing the known names.
    pub fn get(&self, name: &str) -> Result<&dyn PromptSyntax> {
        self.names.get(name).map(AsRef::as_ref)
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.names.names()
    }
}

impl fmt::Debug for SyntaxRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SyntaxRegistry").field(&self.names()).finish()
    }
}
