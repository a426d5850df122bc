//! Chooses where objects stand, how large they are, and which background they have. All tiers use it.

use super::draws::Draws;
use super::parts::{Background, Position, Relation, Size, Style, Tone};

/// The number of scenes with a single object, in 100 scenes.
pub(crate) const SINGLE_PERCENT: usize = 60;

/// All lengths below are in pixels of a picture of this side.
const SIDE: f32 = 64.0;
/// The distance of an object from the border, and of two objects from the line between their halves.
const MARGIN: f32 = 1.0;

/// Size and position by name, and their exact values in shares of the side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    pub(crate) size: Size,
    pub(crate) position: Position,
    pub(crate) centre: [f32; 2],
    pub(crate) radius: f32,
}

impl Place {
    /// The place of a single object.
    pub(crate) fn single(draws: &mut Draws) -> Self {
        let size = draws.one_of(Size::ALL);
        let position = draws.one_of(Position::ALL);
        let radius = match size {
            Size::Small => draws.between(8.0, 10.0),
            Size::Large => draws.between(14.0, 16.0),
        };
        // The distance of the centre from the picture's centre, in the direction of the position and across it.
        let off = match position {
            Position::Center => draws.between(-2.0, 2.0),
            _ => draws.between(13.0, (SIDE / 2.0 - MARGIN - radius).min(20.0)),
        };
        let beside = match position {
            Position::Center => draws.between(-2.0, 2.0),
            _ => draws.between(-4.0, 4.0),
        };
        Self { size, position, centre: placed(position, off, beside), radius: radius / SIDE }
    }

    /// The places of two objects, in opposite halves of the picture.
    pub(crate) fn pair(relation: Relation, draws: &mut Draws) -> [Self; 2] {
        relation.positions().map(|position| {
            let size = draws.one_of(Size::ALL);
            // Two large objects and their margins must fit next to each other.
            let radius = match size {
                Size::Small => draws.between(8.0, 9.5),
                Size::Large => draws.between(13.0, 14.5),
            };
            let off = draws.between(radius + MARGIN, SIDE / 2.0 - MARGIN - radius);
            let centre = placed(position, off, draws.between(-6.0, 6.0));
            Self { size, position, centre, radius: radius / SIDE }
        })
    }
}

impl Background {
    pub(crate) fn drawn(draws: &mut Draws) -> Self {
        Self {
            style: draws.one_of(Style::ALL),
            tone: draws.one_of(Tone::ALL),
            phase: [draws.between(0.0, 1.0), draws.between(0.0, 1.0)],
        }
    }
}

/// The centre that is `off` pixels from the picture's centre towards `position`, and `beside` pixels across that
/// direction.
fn placed(position: Position, off: f32, beside: f32) -> [f32; 2] {
    let [across, down] = match position {
        Position::Left => [-off, beside],
        Position::Right => [off, beside],
        Position::Top => [beside, -off],
        Position::Bottom => [beside, off],
        Position::Center => [off, beside],
    };
    [0.5 + across / SIDE, 0.5 + down / SIDE]
}
