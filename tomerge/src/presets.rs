//! Named settings.
//!
//! | name | what | source |
//! |---|---|---|
//! | `tome` | tomesd's defaults: r = 0.5, self-attention at the full latent size | tomesd 0.1.3 |
//! | `tome-comfy` | ComfyUI's: r = 0.3, queries alone, similarities of the normalised input | ComfyUI's `TomePatchModel` |
//! | `tome-a` … `tome-d` | r = 0.75, 0.60, 0.50, 0.40 on all sublayers of all layers, the first of each cell | AT-EDM, Table 1 |
//! | `todo` | ToDo's defaults: factor 2 at the full latent size, similarity in the last fifth of time | its authors' program |
//! | `todo-sdxl` | factor 2 at SD-XL's finest attention level | |
//! | `toma` | r = 0.5 in 16 tiles, plans used for 5 steps and by all layers of a block, the first row chooses | arXiv 2509.10918 |
//! | `sito` | r = 0.5 | AAAI 2025 |
//! | `ibtm` | r = 0.7, importance decides from the third step on | its authors' program, `demo_sd.py` |
//! | `dito` | r = 0.5, correspondences of outputs for 4 steps | after arXiv 2605.22011 |
//!
//! `toma`, `sito`, `ibtm` and `dito` reduce self-attention at all levels; `merge_crossattn` and `merge_mlp` add the other sublayers.

use atedm_core::plugin::{GuidanceMasks, Options, Placement};
use atedm_core::{Error, Result};

use crate::config::{MergeConfig, Method};
use crate::dito::DitoOptions;
use crate::ibtm::IbtmOptions;
use crate::sito::SitoOptions;
use crate::todo::TodoOptions;
use crate::toma::TomaOptions;
use crate::tome::{TomeOptions, Variant};

/// The names of all presets.
pub fn names() -> [&'static str; 12] {
    [
        "tome",
        "tome-comfy",
        "tome-a",
        "tome-b",
        "tome-c",
        "tome-d",
        "todo",
        "todo-sdxl",
        "toma",
        "sito",
        "ibtm",
        "dito",
    ]
}

impl MergeConfig {
    /// The preset with this name; `None` for a name that is not one of [`names`].
    pub fn preset(name: &str) -> Option<Self> {
        let at = |ratio: f64, method: Method| {
            Some(Self { placement: Placement { ratio, ..Placement::default() }, method })
        };
        let everywhere = TomeOptions {
            max_downsample: 8,
            use_rand: false,
            merge_crossattn: true,
            merge_mlp: true,
            ..TomeOptions::default()
        };
        match name {
            "tome" => at(0.5, Method::Tome(TomeOptions::default())),
            "tome-comfy" => {
                at(0.3, Method::Tome(TomeOptions { variant: Variant::Comfy, ..TomeOptions::default() }))
            }
            "tome-a" => at(0.75, Method::Tome(everywhere)),
            "tome-b" => at(0.6, Method::Tome(everywhere)),
            "tome-c" => at(0.5, Method::Tome(everywhere)),
            "tome-d" => at(0.4, Method::Tome(everywhere)),
            "todo" => at(0.5, Method::Todo(TodoOptions::default())),
            "todo-sdxl" => {
                at(0.5, Method::Todo(TodoOptions { downsample_factor_level_2: 2, ..TodoOptions::default() }))
            }
            "toma" => Some(Self {
                placement: Placement { guidance: GuidanceMasks::First, ..Placement::default() },
                method: Method::Toma(TomaOptions::default()),
            }),
            "sito" => at(0.5, Method::Sito(SitoOptions::default())),
            "ibtm" => at(0.7, Method::Ibtm(IbtmOptions::default())),
            "dito" => at(0.5, Method::Dito(DitoOptions::default())),
            _ => None,
        }
    }

    /// A preset with `options` laid over it. The options come from a command line or a configuration file.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown preset or key, with the known ones, and for a value of the wrong type or out of
    /// range.
    pub fn from_options(preset: &str, options: &Options) -> Result<Self> {
        let base = Self::preset(preset).ok_or_else(|| {
            Error::config("preset", format!("expected one of {}, got {preset:?}", names().join(", ")))
        })?;
        base.overlaid(options)
    }
}
