//! The names of the files and folders in a run's folder.

/// The configuration as it was written.
pub(crate) const CONFIG: &str = "config.toml";
/// The points with their settings.
pub(crate) const INFO: &str = "run.json";
/// The prompts with their ids and seeds.
pub(crate) const PROMPTS: &str = "prompts.jsonl";
/// One line for each finished image.
pub(crate) const RESULTS: &str = "results.jsonl";
/// The folder of the pictures.
pub(crate) const IMAGES: &str = "images";
/// The folder of the final latents.
pub(crate) const LATENTS: &str = "latents";
/// The folder of the kept sets, for prompts that the configuration names. Files have the format of `--masks-out`.
pub(crate) const MASKS: &str = "masks";

/// The path of an image's picture in its run's folder. `id` is `POINT/PROMPT`.
pub(crate) fn image_path(id: &str) -> String {
    format!("{IMAGES}/{id}.png")
}

/// The path of its final latents, if they are kept.
pub(crate) fn latents_path(id: &str) -> String {
    format!("{LATENTS}/{id}.safetensors")
}

/// The path of its kept sets, if they are stored.
pub(crate) fn masks_path(id: &str) -> String {
    format!("{MASKS}/{id}.safetensors")
}
