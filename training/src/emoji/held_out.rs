//! Decides which combinations never occur in training.

use crate::scenes::Background;
use crate::scenes::held_out::is_chosen;

/// Whether this drawing before this background is held out.
pub(super) fn triple_held_out(icon: &str, background: &Background) -> bool {
    chosen(&[icon, background.style.name(), background.tone.name()])
}

/// Whether these two drawings together are held out, in either order.
pub(super) fn pair_held_out(first: &str, second: &str) -> bool {
    chosen(&[first.min(second), first.max(second)])
}

/// The choice depends only on these names, not on which other drawings exist. It hashes the names with FNV-1a, then
/// decides as for shapes.
fn chosen(names: &[&str]) -> bool {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    is_chosen(hash)
}
