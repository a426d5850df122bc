//! What a run reads beside its configuration, by its content: a path says nothing of what is in a file.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Hashes by what they are of: `checkpoint`, `init_image`, `latents`.
pub type Inputs = BTreeMap<String, String>;

/// What is known of a checkpoint by its identity, if there is one: a plan needs no weights.
pub fn of_checkpoint(identity: Option<String>) -> Inputs {
    identity.map(|identity| ("checkpoint".to_string(), digest(identity.as_bytes()))).into_iter().collect()
}

/// 16 hexadecimal digits of a SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
