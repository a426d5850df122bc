//! The suite for methods on the method of this crate, its counts too.

use atedm::Extension;
use atedm_conformance::method::Subject;
use atedm_core::DType;
use atedm_core::plugin::{BuildContext, MethodPlan, Registry, ScheduleRegistry};
use atedm_core::reference::{NdDevice, NdTensor, Reference64};
use example_own_method::{EveryKth, Mine};
use serde_json::json;

fn subject() -> Subject<Reference64> {
    let build = |every: u32| {
        move || {
            let mut registry = Registry::<NdTensor>::of_identity();
            Mine.register(&mut registry)?;
            registry.build("every-kth", &json!({ "every": every }), &BuildContext::default())
        }
    };
    Subject::new("every-kth", (NdDevice, DType::F64), build(3)).with_idle(build(1)).with_counts(
        |block, step| {
            let schedules = ScheduleRegistry::with_builtins();
            let options = json!({"every": 3}).as_object().cloned()?;
            let plan = EveryKth::describe(&options, &atedm_core::plugin::Facts::new(&schedules)).ok()?;
            plan.tokens(block, step).ok()?
        },
    )
}

atedm_conformance::method_suite!(every_kth, Reference64, subject());
