//! Where scenes come from.

use super::draws::{Draws, Purpose};
use super::parts::{Background, Colour, Object, Position, Relation, Scene, Shape, Size, Split, Style, Tone};

/// How many of 100 scenes show a single object.
const SINGLE_PERCENT: usize = 60;

/// All lengths below are in pixels of a picture of this side.
const SIDE: f32 = 64.0;
/// What an object keeps from the border, and two objects from the line between their halves.
const MARGIN: f32 = 1.0;

impl Scene {
    /// Scene `index` of the stream of `seed` and `split`: 60 of 100 show one object, the others two. Any index is had
    /// independently of the others, and is the same on every machine.
    pub fn sample(seed: u64, split: Split, index: u64) -> Self {
        let mut draws = Draws::new(seed, Purpose::Scene, split as u8, index);
        // The number of objects comes first, so that the split does not change the mixture.
        let compose = if draws.chance(SINGLE_PERCENT) { single } else { pair };
        of_split(split, || compose(&mut draws))
    }

    /// Scene `index` of the stream of single objects of `seed` and `split`.
    pub fn sample_single(seed: u64, split: Split, index: u64) -> Self {
        let mut draws = Draws::new(seed, Purpose::Single, split as u8, index);
        of_split(split, || single(&mut draws))
    }
}

/// The first scene that belongs to `split`; one in ten single objects is held out, so this ends soon.
fn of_split(split: Split, mut next: impl FnMut() -> Scene) -> Scene {
    loop {
        let scene = next();
        if scene.is_held_out() == (split == Split::HeldOut) {
            return scene;
        }
    }
}

fn single(draws: &mut Draws) -> Scene {
    let (shape, colour) = kind(draws);
    let size = draws.one_of(Size::ALL);
    let position = draws.one_of(Position::ALL);
    let radius = match size {
        Size::Small => draws.between(8.0, 10.0),
        Size::Large => draws.between(14.0, 16.0),
    };
    // How far the centre is from the picture's in the direction of the position, and beside it.
    let off = match position {
        Position::Center => draws.between(-2.0, 2.0),
        _ => draws.between(13.0, (SIDE / 2.0 - MARGIN - radius).min(20.0)),
    };
    let beside = match position {
        Position::Center => draws.between(-2.0, 2.0),
        _ => draws.between(-4.0, 4.0),
    };
    let object = Object {
        shape,
        colour,
        size,
        position,
        centre: placed(position, off, beside),
        radius: radius / SIDE,
    };
    Scene { objects: vec![object], relation: None, background: background(draws) }
}

fn pair(draws: &mut Draws) -> Scene {
    let relation = draws.one_of(Relation::ALL);
    let first = kind(draws);
    let mut second = kind(draws);
    while second == first {
        second = kind(draws);
    }
    let kinds = [first, second];
    let positions = relation.positions();
    let objects = (0..2)
        .map(|which| {
            let (shape, colour) = kinds[which];
            let size = draws.one_of(Size::ALL);
            // Two large objects and their margins must fit beside each other.
            let radius = match size {
                Size::Small => draws.between(8.0, 9.5),
                Size::Large => draws.between(13.0, 14.5),
            };
            let position = positions[which];
            let off = draws.between(radius + MARGIN, SIDE / 2.0 - MARGIN - radius);
            let centre = placed(position, off, draws.between(-6.0, 6.0));
            Object { shape, colour, size, position, centre, radius: radius / SIDE }
        })
        .collect();
    Scene { objects, relation: Some(relation), background: background(draws) }
}

fn kind(draws: &mut Draws) -> (Shape, Colour) {
    (draws.one_of(Shape::ALL), draws.one_of(Colour::ALL))
}

fn background(draws: &mut Draws) -> Background {
    Background {
        style: draws.one_of(Style::ALL),
        tone: draws.one_of(Tone::ALL),
        phase: [draws.between(0.0, 1.0), draws.between(0.0, 1.0)],
    }
}

/// The centre that is `off` pixels from the picture's towards `position`, and `beside` across that direction.
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
