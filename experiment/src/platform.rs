//! The backend, device and machine. They are part of every result's provenance, and of the memory check.

use std::fs;

use atedm_core::{Backend, DType};
use atedm_cpu_kernels::Level;

use crate::record::Provenance;

/// The backend and device of an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The name of the backend ([`Backend::NAME`]).
    pub backend: String,
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
    /// Element type of weights and activations.
    pub dtype: DType,
    /// Threads on the CPU.
    pub threads: usize,
}

impl Platform {
    /// A backend on the CPU, with one thread per core.
    pub fn cpu<B: Backend>(dtype: DType) -> Self {
        Self { backend: B::NAME.into(), device: "cpu".into(), dtype, threads: cores() }
    }

    /// Whether the CPU computes.
    pub fn is_cpu(&self) -> bool {
        self.device == "cpu"
    }

    /// The provenance of results of this process.
    pub fn provenance(&self) -> Provenance {
        let number = self.device.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        Provenance {
            atedm: env!("CARGO_PKG_VERSION").into(),
            backend: self.backend.clone(),
            device: self.device.clone(),
            dtype: self.dtype.to_string(),
            cpu: processor(),
            gpu: number.and_then(gpu),
            threads: self.threads,
        }
    }
}

/// The number of CPU threads that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The processor's name if the system reports it, else its architecture. Where the CPU kernels run, their level follows,
/// because results differ between levels in the last digits.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    match Level::here() {
        Level::Plain => name.to_string(),
        level => format!("{name}, kernels {}", level.name()),
    }
}

/// The name of an NVIDIA GPU from its Linux driver. The driver has one folder per device, in the order of the bus.
fn gpu(number: usize) -> Option<String> {
    let entries = fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
    let mut folders: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    let text = fs::read_to_string(folders.get(number)?.join("information")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(line.trim().to_string())
}
