//! Draws scenes.

use super::draws::{Draws, Purpose};
use super::parts::{Background, Colour, Object, Relation, Scene, Shape, Split};
use super::place::Place;
use super::source::Objects;

impl Scene {
    /// Scene `index` of the stream of `seed` and `split`. 60 of 100 scenes show one object, the others two. Any index is
    /// available independently of the others, and gives the same scene on every machine.
    pub fn sample(seed: u64, split: Split, index: u64) -> Self {
        Self::sample_of(Objects::OneOrTwo, seed, split, index)
    }

    /// The same with `objects` in a scene. Each number of objects has a stream of its own.
    pub(crate) fn sample_of(objects: Objects, seed: u64, split: Split, index: u64) -> Self {
        let purpose = match objects {
            Objects::OneOrTwo => Purpose::Scene,
            Objects::One => Purpose::Single,
            Objects::Two => Purpose::Pair,
        };
        let mut draws = Draws::new(seed, purpose, split as u8, index);
        // The number of objects is drawn first, so that the split does not change the mixture.
        let compose = if objects.shows_one(&mut draws) { single } else { pair };
        of_split(split, || compose(&mut draws), Self::is_held_out)
    }
}

/// The first scene that belongs to `split`. One in ten single objects is held out, so the search ends soon.
pub(crate) fn of_split<S>(split: Split, mut next: impl FnMut() -> S, is_held_out: impl Fn(&S) -> bool) -> S {
    loop {
        let scene = next();
        if is_held_out(&scene) == (split == Split::HeldOut) {
            return scene;
        }
    }
}

fn single(draws: &mut Draws) -> Scene {
    let kind = kind(draws);
    let object = object(kind, Place::single(draws));
    Scene { objects: vec![object], relation: None, background: Background::drawn(draws) }
}

fn pair(draws: &mut Draws) -> Scene {
    let relation = draws.one_of(Relation::ALL);
    let first = kind(draws);
    let mut second = kind(draws);
    while second == first {
        second = kind(draws);
    }
    let [one, other] = Place::pair(relation, draws);
    let objects = vec![object(first, one), object(second, other)];
    Scene { objects, relation: Some(relation), background: Background::drawn(draws) }
}

fn kind(draws: &mut Draws) -> (Shape, Colour) {
    (draws.one_of(Shape::ALL), draws.one_of(Colour::ALL))
}

fn object((shape, colour): (Shape, Colour), place: Place) -> Object {
    let Place { size, position, centre, radius } = place;
    Object { shape, colour, size, position, centre, radius }
}
