//! LoRAs in records, and hints at the sampler that a LoRA is made for.

use std::collections::BTreeSet;

use atedm_sdxl::checkpoint::{Checkpoint, LoraFile};
use atedm_sdxl::schedulers::{SchedulerConfig, Spacing};

use crate::inputs::digest;
use crate::listener::Listener;
use crate::record::{Settings, UsedLora};

/// A kind of LoRA that makes pictures in a few steps.
struct Distilled {
    name: &'static str,
    /// Beginnings of words in the names of its files.
    words: &'static [&'static str],
    /// Samplers that it works with. The first is the one that its authors use.
    samplers: &'static [&'static str],
    /// The highest guidance scale.
    guidance: f64,
}

/// The known kinds. The first that fits counts.
///
/// Source: the model cards of latent-consistency/lcm-lora-sdxl, h1t/TCD-SDXL-LoRA, ByteDance/SDXL-Lightning, ByteDance/Hyper-SD and tianweiy/DMD2.
const DISTILLED: [Distilled; 5] = [
    Distilled { name: "DMD2", words: &["dmd2"], samplers: &["lcm"], guidance: 1.0 },
    Distilled {
        name: "Lightning",
        words: &["lightning"],
        samplers: &["euler-trailing", "euler-sgm"],
        guidance: 1.0,
    },
    Distilled {
        name: "Hyper-SD",
        words: &["hyper-sd", "hypersd"],
        samplers: &["ddim-trailing", "tcd", "euler-trailing", "euler-sgm", "lcm"],
        guidance: 1.0,
    },
    Distilled { name: "TCD", words: &["tcd"], samplers: &["tcd"], guidance: 1.0 },
    Distilled { name: "LCM", words: &["lcm"], samplers: &["lcm"], guidance: 2.0 },
];

/// The LoRAs of a checkpoint as records name them.
pub(crate) fn used(checkpoint: &Checkpoint) -> Vec<UsedLora> {
    let used = |file: &LoraFile| UsedLora {
        file: file.lora().file_name(),
        hash: digest(file.identity().as_bytes()),
        scale: file.lora().scale,
        clip_scale: file.lora().text_scale(),
    };
    checkpoint.loras().iter().map(used).collect()
}

/// Warns of runs whose sampler or guidance does not suit a LoRA with a known name. `config` is the checkpoint's.
pub(crate) fn warn<'a>(
    runs: impl Iterator<Item = &'a Settings>,
    config: &SchedulerConfig,
    listener: &dyn Listener,
) {
    let mut hints = BTreeSet::new();
    for settings in runs {
        let sampler = short_name(&settings.scheduler, config);
        let hint = |lora: &UsedLora| hint(&lora.file, sampler, settings.guidance_scale);
        hints.extend(settings.loras.iter().filter_map(hint));
    }
    hints.iter().for_each(|hint| listener.warning(hint));
}

/// The short name of a sampler. A class of diffusers gets the name that fits the config.
fn short_name<'n>(sampler: &'n str, config: &SchedulerConfig) -> &'n str {
    let trailing = config.spacing == Some(Spacing::Trailing);
    match sampler {
        "LCMScheduler" => "lcm",
        "TCDScheduler" => "tcd",
        "EulerDiscreteScheduler" | "euler" if trailing => "euler-trailing",
        "DDIMScheduler" | "ddim" if trailing => "ddim-trailing",
        other => other,
    }
}

/// What a LoRA with this file name needs, if the run does not give it.
fn hint(file: &str, sampler: &str, guidance: f64) -> Option<String> {
    let name = file.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "-");
    let has = |word: &str| name.starts_with(word) || name.contains(&format!("-{word}"));
    let Distilled { name: kind, samplers, guidance: most, .. } =
        DISTILLED.iter().find(|kind| kind.words.iter().any(|word| has(word)))?;
    // Hyper-SD has files that are made for guidance.
    let most = if has("cfg") { f64::INFINITY } else { *most };
    if samplers.contains(&sampler) && guidance <= most {
        return None;
    }
    let of =
        if most.is_finite() { format!(" and a guidance scale of at most {most}") } else { String::new() };
    let first = samplers.first()?;
    Some(format!("{file}: a LoRA of {kind} expects the scheduler {first}{of}, got {sampler} and {guidance}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_told_their_sampler() {
        for (file, sampler, guidance, told) in [
            ("pytorch_lora_weights.safetensors", "euler", 7.0, None),
            ("ink_calculus.safetensors", "euler", 7.0, None),
            ("lcm-lora-sdxl.safetensors", "lcm", 1.5, None),
            (
                "LCM_LoRA.safetensors",
                "euler",
                1.0,
                Some("LCM expects the scheduler lcm and a guidance scale of at most 2, got euler and 1"),
            ),
            ("sdxl_lightning_4step_lora.safetensors", "euler-trailing", 1.0, None),
            (
                "sdxl_lightning_4step_lora.safetensors",
                "euler-trailing",
                7.0,
                Some("at most 1, got euler-trailing and 7"),
            ),
            ("Hyper-SDXL-8steps-lora.safetensors", "ddim-trailing", 0.0, None),
            ("Hyper-SDXL-8steps-lora.safetensors", "ddim", 0.0, Some("expects the scheduler ddim-trailing")),
            ("Hyper-SDXL-8steps-CFG-lora.safetensors", "ddim-trailing", 5.0, None),
            ("Hyper-SDXL-1step-lora.safetensors", "tcd", 1.0, None),
            ("TCD-SDXL-LoRA.safetensors", "tcd", 1.0, None),
            ("TCD-SDXL-LoRA.safetensors", "lcm", 1.0, Some("TCD expects the scheduler tcd")),
            ("dmd2_sdxl_4step_lora.safetensors", "lcm", 1.0, None),
            ("dmd2_sdxl_4step_lora_fp16.safetensors", "euler", 1.0, Some("DMD2 expects the scheduler lcm")),
        ] {
            let hint = hint(file, sampler, guidance);
            let fits = match (&hint, told) {
                (Some(hint), Some(told)) => {
                    hint.contains(told) && hint.starts_with(file) && !hint.contains('\n')
                }
                (None, None) => true,
                _ => false,
            };
            assert!(fits, "{file}: {hint:?}");
        }
    }

    #[test]
    fn classes_have_the_names_of_their_spacing() {
        let sdxl = SchedulerConfig::sdxl();
        let mut trailing = sdxl.clone();
        trailing.spacing = Some(Spacing::Trailing);
        assert_eq!(short_name("EulerDiscreteScheduler", &sdxl), "EulerDiscreteScheduler");
        assert_eq!(short_name("EulerDiscreteScheduler", &trailing), "euler-trailing");
        assert_eq!(short_name("LCMScheduler", &sdxl), "lcm");
        assert_eq!(short_name("DDIMScheduler", &trailing), "ddim-trailing");
        assert_eq!(short_name("heun", &trailing), "heun");
    }
}
