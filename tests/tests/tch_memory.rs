//! Pruning a layer of 4096 tokens on libtorch's CPU: nothing of the size of an attention map is allocated.
//!
//! The peak of what is resident is measured in a process of its own, whose allocator gives large blocks back at once.
#![cfg(feature = "tch")]
// A test's helpers, too: a failed `expect` is a failed check.
#![allow(clippy::expect_used)]

use atedm_conformance::backend::block::TestBlock;
use atedm_conformance::backend::support::Lab;
use atedm_conformance::oracle::BlockShape;
use atedm_core::at_edm::{AtEdmConfig, Parts};
use atedm_core::backend::{AttentionOptions, GraphRequest};
use atedm_core::plugin::{BuildContext, Grid};
use atedm_core::{AttentionOps, Backend, DType, Result};
use atedm_tch::{Device, TchTensor, Torch};

const TOKENS: usize = 64 * 64;
/// One head's map in the smallest dtype.
const MAP: usize = TOKENS * TOKENS * 2;
/// Set in the process that measures.
const MEASURING: &str = "ATEDM_TEST_MEASURING";
const SHAPE: BlockShape = BlockShape { depth: 2, heads: 2, channels: 64, text: 16, text_tokens: 7 };

/// Bytes of a line of `/proc/self/status`.
fn status(field: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// By how much the resident memory rose above its start while `f` ran, at most.
fn rise<R>(f: impl FnOnce() -> Result<R>) -> usize {
    std::fs::write("/proc/self/clear_refs", "5").expect("a peak that can be reset");
    let before = status("VmRSS");
    Torch::inference(f).expect("no error");
    status("VmHWM") - before
}

fn prune(block: &TestBlock<TchTensor>) -> Result<()> {
    let config = AtEdmConfig { schedule: "constant".into(), epsilon: 0.0, ..AtEdmConfig::default() };
    assert_eq!(config.recovery, "similarity");
    let mut method = config.build(&BuildContext::default(), &Parts::with_builtins())?;
    block.run(&mut method).map(drop)
}

#[test]
fn a_pruned_layer_stores_no_map() {
    if std::env::var_os(MEASURING).is_none() {
        let this = std::env::current_exe().expect("the test's own file");
        let outcome = std::process::Command::new(this)
            .args(["--exact", "a_pruned_layer_stores_no_map", "--nocapture"])
            .env(MEASURING, "1")
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .status();
        assert!(outcome.expect("a process").success(), "see above");
        return;
    }
    let writable = std::fs::OpenOptions::new().write(true).open("/proc/self/clear_refs").is_ok();
    if !writable {
        println!("skipped: no /proc/self/clear_refs, so peaks of memory cannot be told apart");
        return;
    }
    for dtype in [DType::BF16, DType::F32] {
        let mut lab = Lab::<Torch>::new(&Device::Cpu, dtype, 1);
        let small = TestBlock::new(&mut lab, SHAPE, 1, Grid::new(8, 8)).expect("a block");
        let large = TestBlock::new(&mut lab, SHAPE, 1, Grid::new(64, 64)).expect("a block");
        // threads, code and tables that come with a first use
        rise(|| prune(&small));
        let pruned = rise(|| prune(&large));
        println!("{dtype}: a pruned block of two layers raises memory by {} MiB", pruned >> 20);
        assert!(pruned < MAP, "{dtype}: {pruned} bytes, a map has {MAP}");
        // the measure sees a map where there is one
        let q = lab.normals(&[1, 2, TOKENS, 32]).expect("queries").on;
        let stored = AttentionOptions { graph: &GraphRequest::Stored, ..AttentionOptions::for_dim(32) };
        let seen = rise(|| TchTensor::attention(&q, &q, &q, stored));
        assert!(seen >= 2 * MAP, "{dtype}: {seen} bytes for the stored maps of two heads");
    }
}
