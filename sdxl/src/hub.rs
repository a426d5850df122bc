//! Checkpoints by hub id (feature `hub`). The files of a diffusers folder are fetched once into the usual cache.
//!
//! These variables work as with `huggingface_hub`: `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN` (else the token file),
//! `HF_ENDPOINT` and `HF_HUB_OFFLINE`. Python shares the cache: `models--org--name/{blobs,refs,snapshots}`.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result, one_line};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

/// The server to fetch from, and the cache to store files in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The cache folder (`~/.cache/huggingface/hub`).
    pub cache: PathBuf,
    /// A server other than the hub's own.
    pub endpoint: Option<String>,
    /// The token for gated and private repositories.
    pub token: Option<String>,
    /// Whether to use only the cache, without the network.
    pub offline: bool,
    /// Whether to draw a progress bar for each file.
    pub progress: bool,
}

impl HubSettings {
    /// Reads the settings from the environment.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Reads the settings from variables that `variable` looks up by name.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(PathBuf::from);
        let user_cache = || path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
        let home = path("HF_HOME").unwrap_or_else(|| user_cache().unwrap_or_default().join("huggingface"));
        let cache = path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"));
        let stored_token =
            || std::fs::read_to_string(home.join("token")).ok().map(|token| token.trim().to_string());
        let yes = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Self {
            cache,
            endpoint: text("HF_ENDPOINT"),
            token: text("HF_TOKEN").or_else(stored_token),
            offline: text("HF_HUB_OFFLINE").is_some_and(yes),
            progress: true,
        }
    }
}

/// Whether `model` has the form of a hub id (`org/name`), not of a folder.
pub fn is_hub_id(model: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('.')
            && p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    !Path::new(model).exists() && model.split('/').count() == 2 && model.split('/').all(part)
}

/// Returns the local folder of `id`'s main revision, with every file that a checkpoint needs. `variant` is the
/// variant's name (`fp16` in `.fp16.`).
///
/// # Errors
/// [`Error::Weights`] naming the id if it cannot be reached, does not exist, or (offline) is not in the cache.
pub fn snapshot(id: &str, variant: Option<&str>, settings: &HubSettings) -> Result<PathBuf> {
    let repo = Repo::new(id.to_string(), RepoType::Model);
    let cached = || Cache::new(settings.cache.clone()).repo(repo.clone()).get(INDEX);
    let failed = |reason: String| Error::weights(id, "", reason);
    if settings.offline {
        let index = cached()
            .ok_or_else(|| failed(format!("not in {} (HF_HUB_OFFLINE is set)", settings.cache.display())))?;
        return folder_of(&index).ok_or_else(|| failed("broken cache".into()));
    }
    let mut builder = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
        .with_progress(settings.progress)
        .with_token(settings.token.clone());
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_string());
    }
    let api = builder.build().map_err(|e| failed(one_line(e)))?.repo(repo.clone());
    let info = match api.info() {
        Ok(info) => info,
        // without a network, use what was fetched before
        Err(error) => match cached().as_deref().and_then(folder_of) {
            Some(folder) if !is_refusal(&error) => return Ok(folder),
            _ => return Err(failed(one_line(error))),
        },
    };
    let names: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    let needed = needed_files(&names, variant);
    if !needed.iter().any(|name| name == INDEX) {
        return Err(failed(format!("has no {INDEX}: not a diffusers checkpoint")));
    }
    fetch(&api, &needed, &failed)
}

const INDEX: &str = "model_index.json";

fn fetch(api: &ApiRepo, names: &[String], failed: &dyn Fn(String) -> Error) -> Result<PathBuf> {
    let mut folder = None;
    for name in names {
        let path = api.get(name).map_err(|e| failed(format!("{name}: {}", one_line(e))))?;
        if name == INDEX {
            folder = folder_of(&path);
        }
    }
    folder.ok_or_else(|| failed(format!("{INDEX} could not be fetched")))
}

fn folder_of(index: &Path) -> Option<PathBuf> {
    index.parent().map(Path::to_path_buf)
}

/// Whether the server answered with a refusal.
fn is_refusal(error: &ApiError) -> bool {
    // We cannot name the client's error type. It prints a server's answer as a status code.
    matches!(error, ApiError::RequestError(_)) && error.to_string().contains("http status")
}

/// The files among `names` that a checkpoint needs: configurations, tokenizers, and one form of each part's weights.
pub fn needed_files(names: &[String], variant: Option<&str>) -> Vec<String> {
    let folders = ["unet", "vae", "text_encoder", "text_encoder_2"];
    let mut needed: Vec<String> = names
        .iter()
        .filter(|name| match name.split_once('/') {
            None => *name == INDEX,
            Some(("tokenizer" | "tokenizer_2", _)) => true,
            Some(("scheduler", file)) => file == "scheduler_config.json",
            Some((folder, file)) => folders.contains(&folder) && file == "config.json",
        })
        .cloned()
        .collect();
    for folder in folders {
        let in_folder = |name: &&String| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let weights: Vec<&String> =
            names.iter().filter(in_folder).filter(|name| name.contains(".safetensors")).collect();
        let infix = variant.map(|variant| format!(".{variant}."));
        let is_variant =
            |name: &str| name.contains(".fp16.") || infix.as_ref().is_some_and(|v| name.contains(v));
        let wanted = |name: &&&String| match &infix {
            Some(infix) => name.contains(infix),
            None => !is_variant(name),
        };
        let mut chosen: Vec<&String> = weights.iter().filter(wanted).copied().collect();
        if chosen.is_empty() {
            chosen = weights;
        }
        needed.extend(chosen.into_iter().cloned());
    }
    needed
}
