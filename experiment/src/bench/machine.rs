//! What the machine says of itself: processor, threads, and the peak of this process's memory (Linux).

use std::fs;

pub use crate::platform::processor;

/// Lets the peak begin anew at what is resident now. `false` where the system cannot.
pub fn reset_peak() -> bool {
    // "5" resets the high-water mark of the resident set (Linux, proc_pid_clear_refs).
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The peak of resident memory in bytes since [`reset_peak`].
pub fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kibibytes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_rises_and_is_reset() {
        const SIZE: usize = 64 << 20;
        let large = vec![1u8; SIZE];
        assert!(large.iter().step_by(4096).all(|&byte| byte == 1));
        let with = peak_bytes().unwrap();
        drop(large);
        assert!(reset_peak());
        let without = peak_bytes().unwrap();
        assert!(without + (SIZE as u64) / 2 < with, "{without} after {with}");
        assert!(!processor().is_empty());
    }
}
