//! Chooses the backend's type by name. This is the only place that does so; generic code stops here.

use std::error::Error;

use atedm_core::reference::{NdDevice, Reference32, Reference64};
use atedm_core::{Backend, DType, DeviceOf};
use atedm_cpu_kernels::{LIMIT, Level};

use atedm_experiment::engine::{PlannedRun, Sink};
use atedm_experiment::extension::{Extension, plugins};

use crate::args::{BackendKind, Device, EngineArgs};
use crate::failure::{Failure, Outcome};
use crate::threads;

/// Work that is the same on every backend.
pub(crate) trait Task {
    /// The result of the work.
    type Output;

    /// Does the work on `device`.
    fn run<B: Backend>(self, device: DeviceOf<B>) -> Outcome<Self::Output>;
}

/// Makes the images of a plan on the chosen backend.
pub(crate) fn run_plan(
    engine: &EngineArgs,
    run: PlannedRun<'_>,
    extension: &impl Extension,
    sink: &mut dyn Sink,
) -> Outcome {
    dispatch(engine, Images { run, extension, sink })
}

/// The task that makes the images of a plan.
struct Images<'a, E> {
    run: PlannedRun<'a>,
    extension: &'a E,
    sink: &'a mut dyn Sink,
}

impl<E: Extension> Task for Images<'_, E> {
    type Output = ();

    fn run<B: Backend>(self, device: DeviceOf<B>) -> Outcome {
        self.run.make::<B>(&device, &plugins(self.extension)?, self.sink)
    }
}

/// Runs `task` on the chosen backend, device and dtype.
pub(crate) fn dispatch<W: Task>(engine: &EngineArgs, task: W) -> Outcome<W::Output> {
    check_deterministic(engine)?;
    check_level()?;
    set_threads(engine)?;
    match engine.backend {
        BackendKind::Ndarray => {
            if engine.device != Device::Cpu {
                return Err(Failure::usage(format!(
                    "--device: ndarray runs on cpu only, got {}",
                    engine.device
                )));
            }
            match DType::from(engine.dtype) {
                DType::F32 => task.run::<Reference32>(NdDevice),
                DType::F64 => task.run::<Reference64>(NdDevice),
                other => Err(Failure::usage(format!("--dtype: ndarray computes in f32 or f64, got {other}"))),
            }
        }
        BackendKind::Candle => candle(engine, task),
        BackendKind::Tch => torch(engine, task),
    }
}

#[cfg(feature = "candle")]
fn candle<W: Task>(engine: &EngineArgs, task: W) -> Outcome<W::Output> {
    let device = atedm_candle::device::parse(&engine.device.to_string())
        .map_err(|error| Failure::usage(error).within("--device"))?;
    if engine.device == Device::Cpu {
        atedm_candle::device::keep_freed_memory();
    }
    task.run::<atedm_candle::Candle>(device)
}

#[cfg(not(feature = "candle"))]
fn candle<W: Task>(_engine: &EngineArgs, _task: W) -> Outcome<W::Output> {
    Err(lacking("candle"))
}

#[cfg(feature = "tch")]
fn torch<W: Task>(engine: &EngineArgs, task: W) -> Outcome<W::Output> {
    let device = atedm_tch::device::parse(&engine.device.to_string())
        .map_err(|error| Failure::usage(error).within("--device"))?;
    if let Some(threads) = engine.threads {
        atedm_tch::device::set_threads(threads).map_err(|error| Failure::usage(error).within("--threads"))?;
    }
    if engine.device == Device::Cpu {
        atedm_tch::device::keep_freed_memory();
    }
    task.run::<atedm_tch::Torch>(device)
}

#[cfg(not(feature = "tch"))]
fn torch<W: Task>(_engine: &EngineArgs, _task: W) -> Outcome<W::Output> {
    Err(lacking("tch"))
}

/// The error if this build lacks the chosen backend.
#[cfg(not(all(feature = "candle", feature = "tch")))]
fn lacking(feature: &str) -> Failure {
    let built = [("candle", cfg!(feature = "candle")), ("tch", cfg!(feature = "tch")), ("ndarray", true)];
    let has: Vec<&str> = built.iter().filter(|(_, built)| *built).map(|&(name, _)| name).collect();
    Failure::usage(format!(
        "--backend: this build lacks the cargo feature `{feature}`; it has {}",
        has.join(" and ")
    ))
}

/// CPU kernels sum in an order that depends only on the shapes and the number of threads. GPU libraries do not
/// guarantee an order.
fn check_deterministic(engine: &EngineArgs) -> Outcome {
    if engine.deterministic && engine.device != Device::Cpu {
        return Err(Failure::usage(format!("--deterministic: expected --device cpu, got {}", engine.device)));
    }
    Ok(())
}

/// Without this check a misspelt limit would have no effect.
fn check_level() -> Outcome {
    match std::env::var(LIMIT) {
        Ok(name) if Level::named(name.trim()).is_none() => {
            let names = Level::ALL.map(Level::name).join(", ");
            Err(Failure::usage(format!("{LIMIT}: expected one of {names}, got {name:?}")))
        }
        _ => Ok(()),
    }
}

/// Makes rayon's pool, with this thread as one of its threads. Otherwise there would be one thread more than cores, because this
/// thread takes part in the CPU kernels. A pool of one thread does not have this thread: work of other threads would wait for it.
fn set_threads(engine: &EngineArgs) -> Outcome {
    // 0 is rayon's own choice
    let mut pool = rayon::ThreadPoolBuilder::new().num_threads(engine.threads.unwrap_or(0));
    if threads::of_pool(engine.threads) > 1 {
        pool = pool.use_current_thread();
    }
    let Err(error) = pool.build_global() else { return Ok(()) };
    let running = error.source().is_none().then(rayon::current_num_threads);
    match (running, engine.threads) {
        // a program may call this a second time
        (Some(_), None) => Ok(()),
        (Some(running), Some(asked)) if running == asked => Ok(()),
        (Some(running), Some(asked)) => {
            Err(Failure::usage(format!("--threads: the pool has {running} threads already, got {asked}")))
        }
        (None, _) => Err(Failure::usage(format!("--threads: {error}"))),
    }
}
