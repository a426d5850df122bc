//! Keys and values of all heads. The first task that needs a head packs it.

use std::sync::{Mutex, OnceLock};

use crate::Cpu;
use crate::element::Element;
use crate::lanes::{LANES, NO_WORDS, Words};
use crate::pack::{Grain, PANEL, Panel, WIDTH, depth, pack_keys, pack_values};
use crate::typed::Typed;

/// Memory of finished heads, for reuse. Fresh pages would cost a call several percent.
static SPARE: Mutex<Vec<[Vec<Words>; 2]>> = Mutex::new(Vec::new());

/// The keys and values of all heads.
#[derive(Debug)]
pub(crate) struct Packed<'a, E> {
    cpu: Cpu<'a>,
    keys: Typed<'a, E>,
    values: Typed<'a, E>,
    grain: Grain,
    heads: Vec<OnceLock<Head>>,
}

impl<'a, E: Element> Packed<'a, E> {
    /// Starts with no head packed.
    pub(crate) fn new(cpu: Cpu<'a>, keys: Typed<'a, E>, values: Typed<'a, E>, grain: Grain) -> Self {
        let [batch, heads, _, _] = keys.dims();
        Self { cpu, keys, values, grain, heads: (0..batch * heads).map(|_| OnceLock::new()).collect() }
    }

    /// One head. Other tasks that need it wait until it is packed.
    pub(crate) fn head(&self, (b, h): (usize, usize)) -> &Head {
        let at = b * self.keys.dims()[1] + h;
        self.heads[at].get_or_init(|| Head::new(self, (b, h)))
    }
}

impl<E> Drop for Packed<'_, E> {
    fn drop(&mut self) {
        if let Ok(mut spare) = SPARE.lock() {
            spare.extend(self.heads.drain(..).filter_map(OnceLock::into_inner).map(|head| head.columns));
        }
    }
}

/// The keys and values of one head.
#[derive(Debug)]
pub(crate) struct Head {
    /// Keys and values, panel after panel.
    columns: [Vec<Words>; 2],
    /// The number of registers in a whole panel.
    by_panel: [usize; 2],
    longest: f32,
}

impl Head {
    fn new<E: Element>(all: &Packed<'_, E>, at: (usize, usize)) -> Self {
        let Packed { cpu: _proof, keys, values, grain, .. } = all;
        let [_, _, n, dim] = keys.dims();
        let words = depth::<E>(dim).next_multiple_of(grain.words);
        let across = values.dims()[3].div_ceil(LANES).next_multiple_of(grain.registers);
        let by_panel = [words * WIDTH, E::WORDS * across];
        let mut columns = SPARE.lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default();
        for (columns, by_panel) in columns.iter_mut().zip(by_panel) {
            columns.resize(columns.len().max(n.div_ceil(PANEL) * by_panel), NO_WORDS);
        }
        let mut longest = 0f32;
        for panel in Panel::all(n, *grain) {
            let [to_keys, to_values] = &mut columns;
            let to_keys = &mut to_keys[panel.at * by_panel[0]..][..by_panel[0] / WIDTH * panel.width];
            let to_values = &mut to_values[panel.at * by_panel[1]..][..by_panel[1] / WIDTH * panel.width];
            // SAFETY: `Cpu` proves that the machine has the instructions.
            #[allow(unsafe_code)]
            let squared = unsafe {
                pack_values(to_values, values, at, panel);
                pack_keys(to_keys, keys, at, panel)
            };
            longest = longest.max(squared.sqrt());
        }
        Self { columns, by_panel, longest }
    }

    /// The registers of one panel.
    pub(crate) fn keys(&self, panel: Panel) -> &[Words] {
        &self.columns[0][panel.at * self.by_panel[0]..][..self.by_panel[0] / WIDTH * panel.width]
    }

    /// As [`Self::keys`].
    pub(crate) fn values(&self, panel: Panel) -> &[Words] {
        &self.columns[1][panel.at * self.by_panel[1]..][..self.by_panel[1] / WIDTH * panel.width]
    }

    /// The values of this panel and of those after it.
    pub(crate) fn values_from(&self, panel: Panel) -> &[Words] {
        &self.columns[1][panel.at * self.by_panel[1]..]
    }

    /// The length of the longest key.
    pub(crate) fn longest(&self) -> f32 {
        self.longest
    }
}
