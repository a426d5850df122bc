//! Places of labels beside marks. No two labels overlap, and no label covers a mark.
//!
//! ```text
//! for each label, in order:
//!     for each distance, near to far, and each of eight directions:
//!         take the first place inside the frame that no mark, no placed label and no line touches
//!     else the same, and lines may cross it
//!     else leave the label out
//! ```

use super::svg::Place;

/// Distances from a mark's edge to its label, in pixels.
const DISTANCES: [f64; 4] = [3.0, 9.0, 18.0, 30.0];
/// From this distance on, a thin line joins label and mark.
const FAR: f64 = 18.0;
/// Directions from a mark to its label: right, left, above, below, then the diagonals.
const DIRECTIONS: [(f64, f64); 8] =
    [(1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)];

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// A square around a place.
    pub(super) fn around((x, y): Place, radius: f64) -> Self {
        Self { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius }
    }

    /// Whether two rectangles share a part.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn holds(&self, other: &Self) -> bool {
        self.left <= other.left
            && other.right <= self.right
            && self.top <= other.top
            && other.bottom <= self.bottom
    }

    /// Whether a straight line passes through it (Liang and Barsky 1984).
    fn is_crossed_by(&self, (from, to): (Place, Place)) -> bool {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let (mut enters, mut leaves) = (0.0f64, 1.0f64);
        let sides = [
            (-dx, from.0 - self.left),
            (dx, self.right - from.0),
            (-dy, from.1 - self.top),
            (dy, self.bottom - from.1),
        ];
        for (towards, room) in sides {
            if towards == 0.0 {
                if room < 0.0 {
                    return false;
                }
            } else if towards < 0.0 {
                enters = enters.max(room / towards);
            } else {
                leaves = leaves.min(room / towards);
            }
        }
        enters <= leaves
    }
}

/// A label that wants a place: its mark, the mark's radius, its own width and height.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) at: Place,
    pub(super) radius: f64,
    pub(super) size: (f64, f64),
}

/// What labels keep clear of.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    /// Marks. No label covers them.
    pub(super) marks: Vec<Area>,
    /// Lines and intervals. Labels avoid them if they can.
    pub(super) lines: Vec<(Place, Place)>,
}

/// The place of a label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Placed {
    pub(super) area: Area,
    /// A line from the mark, if the label is far from it.
    pub(super) leader: Option<(Place, Place)>,
}

/// Places labels in a frame. `None` for a label that has no place.
pub(super) fn place(wanted: &[Wanted], drawn: &Drawn, frame: &Area) -> Vec<Option<Placed>> {
    let mut taken: Vec<Area> = Vec::new();
    let mut places = Vec::with_capacity(wanted.len());
    for wish in wanted {
        let free = |placed: &Placed| {
            let area = &placed.area;
            frame.holds(area)
                && !drawn.marks.iter().any(|mark| mark.overlaps(area))
                && !taken.iter().any(|other| other.overlaps(area))
        };
        let clear = |placed: &Placed| !drawn.lines.iter().any(|line| placed.area.is_crossed_by(*line));
        let found = candidates(wish)
            .find(|placed| free(placed) && clear(placed))
            .or_else(|| candidates(wish).find(free));
        taken.extend(found.map(|placed| placed.area));
        places.push(found);
    }
    places
}

/// All places of a label, the best first.
fn candidates(wish: &Wanted) -> impl Iterator<Item = Placed> + use<> {
    let Wanted { at: (x, y), radius, size: (width, height) } = *wish;
    DISTANCES.into_iter().flat_map(move |distance| {
        DIRECTIONS.into_iter().map(move |(across, down)| {
            let diagonal = across != 0.0 && down != 0.0;
            let away = (radius + distance) * if diagonal { 0.75 } else { 1.0 };
            // the rectangle's nearest side or corner is so far away
            let (middle_x, middle_y) = (x + across * (away + width / 2.0), y + down * (away + height / 2.0));
            let area = Area {
                left: middle_x - width / 2.0,
                top: middle_y - height / 2.0,
                right: middle_x + width / 2.0,
                bottom: middle_y + height / 2.0,
            };
            let near = (x.clamp(area.left, area.right), y.clamp(area.top, area.bottom));
            Placed { area, leader: (distance >= FAR).then_some(((x, y), near)) }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Area = Area { left: 60.0, top: 10.0, right: 340.0, bottom: 260.0 };

    #[test]
    fn a_lone_label_is_right_of_its_mark_and_left_at_the_right_end() {
        let wish = |x| Wanted { at: (x, 100.0), radius: 4.0, size: (40.0, 12.0) };
        let found = place(&[wish(100.0), wish(330.0)], &Drawn::default(), &FRAME);
        let areas: Vec<(f64, f64)> =
            found.iter().map(|p| (p.unwrap().area.left, p.unwrap().area.right)).collect();
        assert_eq!(areas, [(107.0, 147.0), (283.0, 323.0)]);
    }

    #[test]
    fn crowded_labels_never_overlap_and_cover_no_mark() {
        // many marks, some at equal places, in clusters and in a row
        let mut number = 1u32;
        let mut random = || {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(number >> 8) / f64::from(1 << 24)
        };
        for count in [1, 7, 30, 90] {
            for spread in [0.0, 0.05, 0.4, 1.0] {
                let wanted: Vec<Wanted> = (0..count)
                    .map(|_| Wanted {
                        at: (80.0 + 240.0 * spread * random(), 30.0 + 210.0 * spread * random()),
                        radius: if random() < 0.3 { 8.0 } else { 5.0 },
                        size: (10.0 + 50.0 * random(), 12.0),
                    })
                    .collect();
                let marks: Vec<Area> = wanted.iter().map(|wish| Area::around(wish.at, wish.radius)).collect();
                let lines = wanted.windows(2).map(|pair| (pair[0].at, pair[1].at)).collect();
                let drawn = Drawn { marks, lines };
                let placed: Vec<Area> =
                    place(&wanted, &drawn, &FRAME).into_iter().flatten().map(|placed| placed.area).collect();
                assert!(!placed.is_empty(), "{count} {spread}");
                for (index, area) in placed.iter().enumerate() {
                    assert!(FRAME.holds(area), "{area:?}");
                    assert!(!drawn.marks.iter().any(|mark| mark.overlaps(area)), "{area:?}");
                    assert!(!placed[..index].iter().any(|other| other.overlaps(area)), "{area:?}");
                }
            }
        }
    }

    #[test]
    fn labels_avoid_lines_where_they_can() {
        let wish = Wanted { at: (200.0, 100.0), radius: 4.0, size: (40.0, 12.0) };
        let lines = vec![((100.0, 100.0), (300.0, 100.0))];
        let found = place(&[wish], &Drawn { marks: Vec::new(), lines }, &FRAME)[0].unwrap();
        assert!(found.area.bottom < 100.0, "{found:?}");
        let area = Area { left: 0.0, top: 0.0, right: 2.0, bottom: 2.0 };
        assert!(
            area.is_crossed_by(((-1.0, -1.0), (3.0, 3.0))) && !area.is_crossed_by(((-1.0, 1.5), (1.0, 3.6)))
        );
        assert!(
            !area.is_crossed_by(((3.0, -1.0), (3.0, 3.0))) && area.is_crossed_by(((1.0, 1.0), (1.0, 1.0)))
        );
    }
}
