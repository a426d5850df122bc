//! What computes: part of every result's provenance.

use std::fs;

use atedm_core::DType;

use super::record::Provenance;
use crate::args::{Device, EngineArgs};
use crate::threads::cores;

/// The provenance of what this process computes.
pub(crate) fn provenance(engine: &EngineArgs) -> Provenance {
    let gpu = match engine.device {
        Device::Cuda(number) => gpu(number),
        _ => None,
    };
    Provenance {
        atedm: env!("CARGO_PKG_VERSION").into(),
        backend: engine.backend.name().into(),
        device: engine.device.to_string(),
        dtype: DType::from(engine.dtype).to_string(),
        cpu: processor(),
        gpu,
        threads: engine.threads.unwrap_or_else(cores),
    }
}

/// The processor's name, where the system tells; else its architecture.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string())
}

/// The name of an NVIDIA GPU as its driver for Linux tells it: a folder a device, in the order of the bus.
fn gpu(number: usize) -> Option<String> {
    let entries = fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
    let mut folders: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    let text = fs::read_to_string(folders.get(number)?.join("information")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(line.trim().to_string())
}
