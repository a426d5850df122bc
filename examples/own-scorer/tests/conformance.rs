//! The suite for methods on AT-EDM with the scorer of this crate.

use atedm::Extension;
use atedm_conformance::method::Subject;
use atedm_core::DType;
use atedm_core::at_edm::Parts;
use atedm_core::plugin::{BuildContext, Registry};
use atedm_core::reference::{NdDevice, Reference64};
use example_own_scorer::Mine;
use serde_json::{Value, json};

fn subject() -> Subject<Reference64> {
    let build = |ratio: f64| {
        let options: Value = json!({"scorer": "contrast", "scorer_options": {"power": 1}, "ratio": ratio});
        move || {
            let mut parts = Parts::with_builtins();
            Mine.parts(&mut parts)?;
            Registry::with_parts(parts).build("at-edm", &options, &BuildContext::default())
        }
    };
    Subject::new("at-edm with contrast", (NdDevice, DType::F64), build(0.6)).with_idle(build(0.0))
}

atedm_conformance::method_suite!(contrast, Reference64, subject());
