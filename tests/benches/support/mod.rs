//! Named places of SD-XL's U-Net at 1024 px, and timings that wait for the device.
#![allow(unreachable_pub)]

use std::time::{Duration, Instant};

use atedm_core::{Backend, DeviceOf};

/// A place in the U-Net.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Stage, tokens and channels.
    pub name: &'static str,
    /// Height (and width) of the token grid.
    pub side: usize,
    /// Attention heads, of 64 channels each.
    pub heads: usize,
}

impl Place {
    /// Channels.
    pub fn channels(&self) -> usize {
        64 * self.heads
    }
}

/// The two levels with attention.
pub const PLACES: [Place; 2] = [
    Place { name: "down1_4096x640", side: 64, heads: 10 },
    Place { name: "down2_1024x1280", side: 32, heads: 20 },
];

/// The time of `iterations` calls. It waits for the device before and after.
pub fn synced<B: Backend>(device: &DeviceOf<B>, iterations: u64, mut call: impl FnMut()) -> Duration {
    B::synchronize(device).expect("the device works");
    let start = Instant::now();
    for _ in 0..iterations {
        call();
    }
    B::synchronize(device).expect("the device works");
    start.elapsed()
}
