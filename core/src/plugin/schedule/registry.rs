//! Schedules by name. A schedule needs no tensor, so token counts can be planned without one.

use std::sync::Arc;

use super::{Constant, PruneLess, PruneMore, PruningSchedule, Table};
use crate::Result;
use crate::plugin::options::{Named, PartSpec};
use crate::plugin::placement::{Placement, SCHEDULE, missing_table};

type Builder = Arc<dyn Fn(&PartSpec<'_, Placement>) -> Result<Box<dyn PruningSchedule>> + Send + Sync>;

/// Schedules by name.
#[derive(Clone)]
pub struct ScheduleRegistry {
    schedules: Named<Builder>,
}

impl ScheduleRegistry {
    /// A registry with the built-in schedules: `prune-less`, `prune-more`, `constant` and `table`.
    pub fn with_builtins() -> Self {
        let mut schedules = Named::new("schedule");
        schedules.extend([
            builtin("prune-less", |placement| Ok(Box::new(PruneLess { tau: placement.tau }))),
            builtin("prune-more", |placement| Ok(Box::new(PruneMore { tau: placement.tau }))),
            builtin("constant", |_| Ok(Box::new(Constant))),
            builtin("table", |placement| match &placement.table {
                Some(table) => Ok(Box::new(Table::new(table.clone())?)),
                None => Err(missing_table()),
            }),
        ]);
        Self { schedules }
    }

    /// Adds a schedule.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when the name is taken or empty.
    pub fn register(
        &mut self,
        name: &str,
        builder: impl Fn(&PartSpec<'_, Placement>) -> Result<Box<dyn PruningSchedule>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.schedules.insert(name, Arc::new(builder))
    }

    /// Builds the schedule that `placement` names.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an unknown name, listing the known ones, or for bad options.
    pub fn build(&self, placement: &Placement) -> Result<Box<dyn PruningSchedule>> {
        let spec = PartSpec::new(&SCHEDULE, &placement.schedule_options, placement);
        self.schedules.get(&placement.schedule)?(&spec)
    }

    /// The known names.
    pub fn names(&self) -> Vec<&str> {
        self.schedules.names()
    }
}

/// An entry for a schedule without an options table: its settings are fields of the placement.
fn builtin(
    name: &str,
    build: impl Fn(&Placement) -> Result<Box<dyn PruningSchedule>> + Send + Sync + 'static,
) -> (String, Builder) {
    let builder = move |spec: &PartSpec<'_, Placement>| {
        spec.expect_no_options()?;
        build(spec.config)
    };
    (name.to_string(), Arc::new(builder))
}
