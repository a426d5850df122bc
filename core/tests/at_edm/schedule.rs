//! Schedules: their bounds, their mirror, and tables from files.

use atedm_core::at_edm::AtEdmConfig;
use atedm_core::plugin::schedule::{Constant, PruneLess, PruneMore, ScheduleTable, Table};
use atedm_core::plugin::{BlockId, BlockShape, Grid, PruningSchedule, ScheduleQuery, Stage, StepOf, Tau};

use crate::support::block;

fn blocks() -> Vec<BlockId> {
    let mut all = vec![block(Stage::Mid, 0, 0, 1, 2)];
    for (stage, count) in [(Stage::Down, 2), (Stage::Up, 3)] {
        all.extend((0..count).flat_map(|i| [block(stage, 0, i, count, 1), block(stage, 1, i, count, 2)]));
    }
    all
}

fn table(text: &str) -> ScheduleTable {
    toml::from_str(text).unwrap()
}

#[test]
fn every_schedule_stays_between_nothing_and_the_ratio() {
    for tau in [Tau::Steps(0), Tau::Steps(3), Tau::Percent(30.0), Tau::Percent(100.0)] {
        let (less, more) = (PruneLess { tau }, PruneMore { tau });
        for block in blocks() {
            for step in 0..10 {
                let query = ScheduleQuery { block, step, total: 10, ratio: 0.63 };
                let (less, more) = (less.ratio(&query), more.ratio(&query));
                assert!([less, more].iter().all(|r| [0.0, 0.63].contains(r)));
                assert_eq!(Constant.ratio(&query), 0.63);
                if block.is_stage_edge() {
                    assert_eq!(less + more, 0.63, "one is the mirror of the other");
                    assert_eq!(less == 0.0, step < tau.steps(10));
                } else {
                    assert_eq!((less, more), (0.63, 0.63));
                }
            }
        }
    }
}

#[test]
fn the_first_entry_that_covers_a_site_decides() {
    let schedule = Table::new(table(
        r#"
        [[entries]]
        steps = [0, "30%"]
        blocks = ["down.*", "up.1.2"]
        ratio = 0.0
        [[entries]]
        steps = [5, 8]
        ratio = 0.25
        [[entries]]
        blocks = ["mid.0"]
        ratio = 0.75
        "#,
    ))
    .unwrap();
    let ratio = |block: BlockId, step| schedule.ratio(&ScheduleQuery { block, step, total: 10, ratio: 0.5 });
    let (down, mid, up) =
        (block(Stage::Down, 1, 1, 2, 1), block(Stage::Mid, 0, 0, 1, 2), block(Stage::Up, 1, 2, 3, 1));
    assert_eq!([0, 2, 3, 5, 7, 8].map(|step| ratio(down, step)), [0.0, 0.0, 0.5, 0.25, 0.25, 0.5]);
    assert_eq!([0, 2, 3, 5, 7, 8].map(|step| ratio(mid, step)), [0.75, 0.75, 0.75, 0.25, 0.25, 0.75]);
    assert_eq!([0, 3].map(|step| ratio(up, step)), [0.0, 0.5]);
    assert_eq!(ratio(block(Stage::Up, 0, 2, 3, 1), 0), 0.5);
    assert!(schedule.begin(8).is_ok());
    assert!(schedule.begin(7).unwrap_err().to_string().starts_with("table.steps: "));
}

#[test]
fn bad_tables_name_the_entry() {
    for (text, field) in [
        ("entries = [{ ratio = 1.0 }]", "t.entries[0].ratio: "),
        ("entries = [{ ratio = 0.1 }, { ratio = nan }]", "t.entries[1].ratio: "),
        ("entries = [{ ratio = 0.1, steps = [5, 5] }]", "t.entries[0].steps: "),
        ("entries = [{ ratio = 0.1, blocks = [] }]", "t.entries[0].blocks: "),
        ("entries = [{ ratio = 0.1, blocks = ['down.1'] }]", "t.entries[0].blocks: "),
        ("entries = [{ ratio = 0.1, blocks = ['Middle.0'] }]", "t.entries[0].blocks: "),
        ("entries = [{ ratio = 0.1, blocks = [''] }]", "t.entries[0].blocks: "),
    ] {
        let error = table(text).validate("t").unwrap_err().to_string();
        assert!(error.starts_with(field), "{text}: {error}");
    }
    for pattern in ["*", "down.*", "down.*.0", "up.2.*", "mid.*", "mid.0", "up.0.2", "double.*", "blocks.3"] {
        table(&format!("entries = [{{ ratio = 0.1, blocks = ['{pattern}'] }}]")).validate("t").unwrap();
    }
}

/// Only the model knows whether a transformer has a stage of this name.
#[test]
fn a_table_that_names_a_stage_the_model_lacks_is_refused() {
    let shape = |name: &str| BlockShape::new(BlockId::named(name, 0, 1).unwrap(), 2, Grid::new(2, 2));
    let blocks = [shape("double"), shape("single")];
    let of = |pattern: &str| {
        let entries = format!("entries = [{{ ratio = 0.1 }}, {{ ratio = 0.2, blocks = ['{pattern}'] }}]");
        Table::new(table(&entries)).unwrap().check_blocks(&blocks)
    };
    for fits in ["double.*", "single.0", "*", "down.3.0"] {
        of(fits).unwrap();
    }
    for lacks in ["middle.0", "double.1"] {
        let error = of(lacks).unwrap_err().to_string();
        assert_eq!(error, format!("table.entries[1].blocks: the model has no block {lacks:?}"));
    }
}

#[test]
fn a_table_is_an_option() {
    let table = table("entries = [{ ratio = 0.25, steps = [0, 15], blocks = ['down.*'] }]");
    let config = AtEdmConfig { schedule: "table".into(), table: Some(table), ..AtEdmConfig::default() };
    let shape = BlockShape::new(block(Stage::Down, 1, 0, 2, 1), 2, Grid::new(10, 10));
    let tokens = config.plan().unwrap().tokens(&shape, StepOf { index: 3, total: 50 }).unwrap();
    assert_eq!(tokens[1].self_attention, 75);
}
