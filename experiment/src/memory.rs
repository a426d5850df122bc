//! Compares the memory that a run needs with the memory of this machine. The error comes before the weights are read,
//! not as an abort after minutes.

use atedm_core::DType;
use atedm_sdxl::checkpoint::Checkpoint;
use atedm_sdxl::memory::{Memory, Workload};

use crate::failure::{Failure, Outcome};
use crate::method;
use crate::platform::Platform;

/// The factor by which the estimate may exceed the available memory. Caches can be freed, and the estimate is not
/// exact.
const MARGIN: f64 = 1.2;

/// The settings that decide how much is in memory at once.
#[derive(Debug, Clone, Copy)]
pub struct AtOnce {
    /// Images in the batch.
    pub images: usize,
    /// The guidance scale. Above 1, an image has two rows, unless the U-Net takes the scale as an input.
    pub guidance_scale: f64,
    /// Width and height in pixels of the tiles in which images are decoded; `None` for whole images.
    pub tile: Option<usize>,
    /// Element type of weights and activations.
    pub dtype: DType,
}

/// The properties of a run that its memory depends on.
pub fn workload(work: &method::Workload<'_>, at_once: AtOnce) -> Workload {
    let AtOnce { images, guidance_scale, tile, dtype } = at_once;
    let guided = work.unet.is_guided(guidance_scale);
    Workload { latents: work.latents, images, guided, dtype, tile }
}

/// Refuses a run on the CPU that needs far more memory than is available. If that is unknown, no run is refused.
pub fn check(checkpoint: &Checkpoint, work: &Workload, platform: &Platform) -> Outcome {
    if !platform.is_cpu() {
        return Ok(());
    }
    let needed = Memory::of(checkpoint, work).map_err(Failure::run)?.peak();
    match available() {
        Some(Room { there, most, whose }) if needed > most => Err(Failure::run(format!(
            "the run needs about {}, and {} are available ({whose}): expected fewer or smaller images, --vae-tiling or --dtype bf16",
            readable(needed),
            readable(there)
        ))),
        _ => Ok(()),
    }
}

/// Bytes in a readable unit.
pub fn readable(bytes: u64) -> String {
    match bytes as f64 {
        large if large >= 1e9 => format!("{:.1} GB", large / 1e9),
        small => format!("{:.0} MB", (small / 1e6).max(1.0)),
    }
}

/// The memory that a limit leaves for this process.
struct Room {
    /// Available bytes.
    there: u64,
    /// The largest estimate that is accepted.
    most: u64,
    /// The name of the limit, for messages.
    whose: &'static str,
}

/// The least memory that any limit leaves for this process.
fn available() -> Option<Room> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (memory, limits, status) =
        (read("/proc/meminfo"), read("/proc/self/limits"), read("/proc/self/status"));
    let machine = machine(&memory).map(|there| Room {
        there,
        most: (MARGIN * there as f64) as u64,
        whose: "the machine's memory and swap",
    });
    let limit = limit(&limits, &status).map(|there| Room {
        there,
        most: there,
        whose: "the limit on address space, ulimit -v",
    });
    machine.into_iter().chain(limit).min_by_key(|room| room.most)
}

/// The sum of `MemAvailable` and `SwapFree` in `/proc/meminfo`.
fn machine(meminfo: &str) -> Option<u64> {
    Some(kilobytes(meminfo, "MemAvailable:")?.saturating_add(kilobytes(meminfo, "SwapFree:").unwrap_or(0)))
}

/// The soft limit of `/proc/self/limits` minus `VmSize` of `/proc/self/status`; `None` without a limit.
fn limit(limits: &str, status: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let soft: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(soft.saturating_sub(kilobytes(status, "VmSize:").unwrap_or(0)))
}

/// The value of `NAME:   N kB` in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_are_understood() {
        let memory = "MemTotal:  16000 kB\nMemAvailable:   1000 kB\nSwapFree:  24 kB\n";
        assert_eq!(machine(memory), Some(1024 * 1024));
        assert_eq!(machine("MemAvailable: 1 kB\n"), Some(1024));
        assert_eq!(machine("MemTotal: 1 kB\n"), None);
        let limited =
            "Limit  Soft Limit  Hard Limit  Units\nMax address space  204800000  unlimited  bytes\n";
        assert_eq!(limit(limited, "VmSize:\t 100000 kB\n"), Some(102_400_000));
        assert_eq!(limit(limited, "VmSize:\t 300000 kB\n"), Some(0));
        assert_eq!(limit("Max address space  unlimited  unlimited  bytes\n", ""), None);
        assert_eq!(limit("", ""), None);
    }

    #[test]
    fn bytes_are_short() {
        assert_eq!([12_340_000_000, 987_600_000, 3].map(readable), ["12.3 GB", "988 MB", "1 MB"]);
    }
}
