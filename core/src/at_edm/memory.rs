//! Values that each pruning layer remembers of batch rows from one evaluation to the next.

use std::collections::BTreeMap;

use crate::plugin::{BlockId, Row, Site};

/// Values of whole batches, by block, layer and row. Between evaluations the rows of a batch may change their order
/// or separate. Each layer remembers a row once, with the last batch that held it.
#[derive(Debug, Clone)]
pub(super) struct RowMemory<V> {
    places: BTreeMap<(BlockId, usize), Vec<Remembered<V>>>,
}

/// The value of one batch. A row leaves it when the layer remembers that row with another batch.
#[derive(Debug, Clone)]
struct Remembered<V> {
    rows: Vec<Option<Row>>,
    value: V,
}

impl<V> Default for RowMemory<V> {
    fn default() -> Self {
        Self { places: BTreeMap::new() }
    }
}

impl<V> RowMemory<V> {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.places.clear();
    }

    /// Remembers the value of `site`'s rows. It replaces earlier values of these rows there.
    pub(super) fn remember(&mut self, site: &Site<'_>, value: V) {
        let batches = self.places.entry((site.block, site.layer)).or_default();
        for row in batches.iter_mut().flat_map(|batch| &mut batch.rows) {
            *row = row.filter(|row| !site.rows.contains(row));
        }
        batches.retain(|batch| batch.rows.iter().any(Option::is_some));
        batches.push(Remembered { rows: site.rows.iter().copied().map(Some).collect(), value });
    }

    /// The value of a batch with exactly these rows in this order.
    pub(super) fn batch(&self, site: &Site<'_>) -> Option<&V> {
        let same =
            |batch: &&Remembered<V>| batch.rows.iter().copied().eq(site.rows.iter().copied().map(Some));
        self.at(site).iter().find(same).map(|batch| &batch.value)
    }

    /// The last value that includes `row`, and the row's place in that batch.
    pub(super) fn row(&self, site: &Site<'_>, row: Row) -> Option<(&V, usize)> {
        let place = |batch: &Remembered<V>| batch.rows.iter().position(|other| *other == Some(row));
        self.at(site).iter().find_map(|batch| place(batch).map(|index| (&batch.value, index)))
    }

    fn at(&self, site: &Site<'_>) -> &[Remembered<V>] {
        self.places.get(&(site.block, site.layer)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Branch, Grid, Step};

    fn rows(images: &[u64]) -> Vec<Row> {
        images.iter().map(|&image| Row { image, branch: Branch::Single }).collect()
    }

    fn site(rows: &[Row]) -> Site<'_> {
        Site {
            block: BlockId::whole(),
            layer: 0,
            depth: 2,
            step: Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 },
            grid: Grid::new(2, 2),
            tokens: 4,
            protected: (0, 0),
            rows,
        }
    }

    #[test]
    fn a_row_is_known_by_what_it_was_last_in() {
        let mut memory = RowMemory::default();
        let (pair, swapped, single, other) = (rows(&[1, 2]), rows(&[2, 1]), rows(&[2]), rows(&[3]));
        memory.remember(&site(&pair), "pair");
        assert_eq!(memory.batch(&site(&pair)), Some(&"pair"));
        assert_eq!(memory.batch(&site(&swapped)), None);
        assert_eq!(memory.row(&site(&swapped), pair[1]), Some((&"pair", 1)));
        memory.remember(&site(&single), "single");
        assert_eq!(memory.row(&site(&pair), pair[1]), Some((&"single", 0)));
        assert_eq!(memory.row(&site(&pair), pair[0]), Some((&"pair", 0)));
        assert_eq!(memory.batch(&site(&pair)), None);
        assert_eq!(memory.row(&site(&other), other[0]), None);
        let elsewhere = Site { layer: 1, ..site(&pair) };
        assert_eq!(memory.row(&elsewhere, pair[0]), None);
        // A batch is dropped when newer batches hold all its rows.
        memory.remember(&site(&rows(&[1])), "first");
        assert_eq!(memory.places[&(BlockId::whole(), 0)].len(), 2);
        memory.clear();
        assert_eq!(memory.row(&site(&pair), pair[0]), None);
    }
}
