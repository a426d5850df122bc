//! Cleans up before a signal ends the process. Destructors do not run when a process is interrupted.

use std::sync::Once;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// From now on, calls `clean` when the process is interrupted or terminated, and then ends it by the same signal. So
/// the caller sees the signal (a shell shows 130 or 143). Later calls in the same process do nothing.
pub(crate) fn clean_up_with(clean: fn(end: &dyn Fn())) {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        // Without the thread or the handlers, the next run removes what remains.
        let Ok(mut signals) = Signals::new(watched(ignored())) else { return };
        let wait = move || {
            if let Some(signal) = signals.forever().next() {
                clean(&|| {
                    let _ = emulate_default_handler(signal);
                });
            }
        };
        let _ = std::thread::Builder::new().name("signals".into()).spawn(wait);
    });
}

/// The signals to handle, given the set of signals that the process ignores. `nohup`, and shells that start background
/// jobs, make a process ignore some; it must continue to ignore them. If the set is unknown, a hang-up is not handled.
fn watched(ignored: Option<u64>) -> Vec<i32> {
    let is_watched = |signal: &i32| match ignored {
        Some(set) => set & (1 << (signal - 1)) == 0,
        None => *signal != SIGHUP,
    };
    [SIGHUP, SIGINT, SIGTERM].into_iter().filter(is_watched).collect()
}

/// The set of ignored signals (Linux). Signal 1 is the lowest bit.
fn ignored() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_stay_ignored() {
        assert_eq!(watched(Some(0)), [SIGHUP, SIGINT, SIGTERM]);
        assert_eq!(watched(Some(0b11)), [SIGTERM]);
        assert_eq!(watched(None), [SIGINT, SIGTERM]);
    }
}
