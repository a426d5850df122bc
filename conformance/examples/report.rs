//! Runs both suites on what `atedm-core` brings: the reference backend, and AT-EDM with its default settings.
//!
//! `cargo run -p atedm-conformance --example report -- --format json`

use std::process::ExitCode;

use atedm_conformance::{backend, method, runner};
use atedm_core::DType;
use atedm_core::plugin::{BuildContext, Registry};
use atedm_core::reference::{NdDevice, Reference64};
use serde_json::json;

fn main() -> ExitCode {
    let build = |options: serde_json::Value| {
        move || Registry::with_builtins().build("at-edm", &options, &BuildContext::default())
    };
    runner::main_with(|| {
        let at_edm = method::Subject::<Reference64>::new("at-edm", (NdDevice, DType::F64), build(json!({})))
            .with_idle(build(json!({"ratio": 0.0})));
        vec![
            backend::run_suite::<Reference64>(&NdDevice, &[DType::F32, DType::F64], &[]),
            method::run_suite(&at_edm, &[]),
        ]
    })
}
