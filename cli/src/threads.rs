//! Limits the number of threads. A pool of thousands of threads fails to start, or makes the machine unusable.

use atedm_experiment::platform::cores;

use crate::args::{BackendKind, EngineArgs};
use crate::tell;

/// The maximum number of threads per core.
const PER_CORE: usize = 4;

/// The variables that rayon reads. Candle and the reference run on its pool.
const RAYON: [&str; 2] = ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"];
/// The variables that libtorch's pool reads.
const OPENMP: [&str; 2] = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"];

/// Limits the number from `--threads`, or else from the environment, with a warning.
pub(crate) fn settle(engine: &mut EngineArgs) {
    engine.threads = match engine.threads {
        Some(asked) => Some(bounded("--threads", asked)),
        None => from_environment(engine.backend),
    };
}

/// The number to set if the environment asks for too many threads of this backend's pool. Otherwise `None`, and the
/// pool reads the variable itself.
pub(crate) fn from_environment(backend: BackendKind) -> Option<usize> {
    let names = match backend {
        BackendKind::Tch => OPENMP,
        BackendKind::Candle | BackendKind::Ndarray => RAYON,
    };
    let asked = names.iter().filter_map(|name| Some((name, count(&std::env::var(name).ok()?)?)));
    let (name, asked) = asked.max_by_key(|(_, asked)| *asked)?;
    (asked > most()).then(|| bounded(name, asked))
}

/// The number of threads of rayon's pool, for the number that is set, if any.
pub(crate) fn of_pool(set: Option<usize>) -> usize {
    let asked = || RAYON.iter().find_map(|name| count(&std::env::var(name).ok()?).filter(|&asked| asked > 0));
    set.or_else(asked).unwrap_or_else(cores)
}

fn most() -> usize {
    PER_CORE * cores()
}

fn bounded(asker: &str, asked: usize) -> usize {
    let most = most();
    if asked > most {
        tell::warning(format_args!("{asker}: {most} threads, {PER_CORE} for each core, instead of {asked}"));
    }
    asked.min(most)
}

/// Parses the number. OpenMP allows a list, with one number per level of nesting; the first one counts.
fn count(value: &str) -> Option<usize> {
    value.split(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(bounded("--threads", 1), 1);
        assert_eq!(bounded("--threads", most()), most());
        assert_eq!(bounded("--threads", usize::MAX), 4 * cores());
    }

    #[test]
    fn a_pool_has_the_number_that_is_set() {
        assert_eq!(of_pool(Some(3)), 3);
        assert!(of_pool(None) >= 1);
    }

    #[test]
    fn values_are_read_as_the_pools_read_them() {
        assert_eq!(["12", " 8 ", "16,4,2"].map(count), [Some(12), Some(8), Some(16)]);
        assert_eq!(["", "many", "-1", "99999999999999999999999"].map(count), [None; 4]);
    }
}
