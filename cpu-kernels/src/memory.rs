//! Memory that stays for the next call: the C library's, and our own.

use std::sync::Mutex;

/// Memory of the last call, for the next one. Fresh pages would cost a call several percent.
#[derive(Debug)]
pub(crate) struct Spare<T>(Mutex<Vec<T>>);

impl<T> Spare<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The memory, with old numbers in it. It is empty while another call has it.
    pub(crate) fn take(&self) -> Vec<T> {
        self.0.lock().map(|mut spare| std::mem::take(&mut *spare)).unwrap_or_default()
    }

    /// Gives it back.
    pub(crate) fn keep(&self, memory: &mut Vec<T>) {
        if let Ok(mut spare) = self.0.lock() {
            *spare = std::mem::take(memory);
        }
    }
}

/// Keeps some freed memory (256 MiB) in the C library for the next tensors. A program that runs models on the CPU calls
/// it once, when it starts. By default the C library returns every large block to the system. The system fills each
/// page with zeros when it lends it again. This takes 4 to 7 % of the processor time of SD-XL's widest layers on
/// libtorch, and a quarter of the time in which Candle loads SD-XL with LoRAs. The call affects tensors that the main
/// thread makes; the heaps of other threads are small. Without glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const KEPT: libc::c_int = 256 << 20;
        const LARGEST: libc::c_int = 1 << 30;
        // SAFETY: this sets two numbers of the allocator. If it refuses one, it continues as before.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
        }
    }
}
