//! Hashes of the files that a run reads besides its configuration. A hash identifies the content; a path does not.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Hashes by input: `checkpoint`, `init_image`, `latents`.
pub type Inputs = BTreeMap<String, String>;

/// The inputs of a checkpoint with this identity. It is `None` if weights are missing, because a plan needs no weights.
pub fn of_checkpoint(identity: Option<String>) -> Inputs {
    identity.map(|identity| ("checkpoint".to_string(), digest(identity.as_bytes()))).into_iter().collect()
}

/// 16 hexadecimal digits of a SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
