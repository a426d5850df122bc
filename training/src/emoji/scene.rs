//! One scene of drawings.

use super::held_out::{pair_held_out, triple_held_out};
use super::icons::Icon;
use super::noun::noun;
use crate::scenes::caption::{Omission, sentence};
use crate::scenes::draws::{Draws, Purpose};
use crate::scenes::place::Place;
use crate::scenes::sample::of_split;
use crate::scenes::{
    Background, Composed, Kind, Labels, ObjectLabels, Objects, Picture, Relation, Split, Style, Tone,
};

/// One or two drawings before a background.
pub(super) struct EmojiScene<'a> {
    /// In the order in which the caption names them.
    pub(super) objects: Vec<(&'a Icon, Place)>,
    pub(super) relation: Option<Relation>,
    pub(super) background: Background,
}

impl<'a> EmojiScene<'a> {
    /// Scene `index` of the stream; `icons` are at least two.
    pub(super) fn sample(
        icons: &'a [Icon],
        (seed, objects): (u64, Objects),
        split: Split,
        index: u64,
    ) -> Self {
        let purpose = match objects {
            Objects::OneOrTwo => Purpose::EmojiScene,
            Objects::One => Purpose::EmojiSingle,
            Objects::Two => Purpose::EmojiPair,
        };
        let mut draws = Draws::new(seed, purpose, split as u8, index);
        let compose = if objects.shows_one(&mut draws) { single } else { pair };
        of_split(split, || compose(icons, &mut draws), Self::is_held_out)
    }

    /// Whether it shows a held-out combination.
    pub(super) fn is_held_out(&self) -> bool {
        self.objects.iter().any(|(icon, _)| triple_held_out(&icon.name, &self.background))
            || matches!(&self.objects[..], [(first, _), (second, _)] if pair_held_out(&first.name, &second.name))
    }

    fn words(&self, omission: Omission) -> String {
        let nouns = self.objects.iter().map(|(icon, place)| {
            let size = omission.leaves_sizes().then_some(place.size);
            (noun(&icon.label, size), place.position)
        });
        sentence(&nouns.collect::<Vec<_>>(), self.relation, &self.background, omission)
    }

    /// Calls `found` for each pixel that an object touches, with the colour that the object puts there.
    fn lay(&self, side: usize, mut found: impl FnMut(usize, [f32; 4])) {
        for (icon, place) in &self.objects {
            icon.sprite().lay(place.centre, place.radius, side, &mut found);
        }
    }
}

/// Whether there are scenes of one object and of two objects, both with and without a held-out combination. Then a search
/// for one ends.
pub(super) fn fill_both_splits(icons: &[Icon]) -> bool {
    let backgrounds = || {
        let tones = |style| Tone::ALL.map(|tone| Background { style, tone, phase: [0.0; 2] });
        Style::ALL.into_iter().flat_map(tones)
    };
    let free = |icon: &Icon, background: &Background| !triple_held_out(&icon.name, background);
    let mut singles = icons.iter().flat_map(|icon| backgrounds().map(move |background| (icon, background)));
    let held_out = singles.any(|(icon, background)| !free(icon, &background));
    let mut pairs = icons.iter().enumerate().flat_map(|(place, first)| {
        icons[..place]
            .iter()
            .filter(|second| !pair_held_out(&first.name, &second.name))
            .map(move |second| (first, second))
    });
    // A free pair has two free objects; a held-out object makes any pair held out.
    held_out
        && pairs.any(|(first, second)| {
            backgrounds().any(|background| free(first, &background) && free(second, &background))
        })
}

fn single<'a>(icons: &'a [Icon], draws: &mut Draws) -> EmojiScene<'a> {
    let icon = &icons[draws.below(icons.len())];
    let objects = vec![(icon, Place::single(draws))];
    EmojiScene { objects, relation: None, background: Background::drawn(draws) }
}

fn pair<'a>(icons: &'a [Icon], draws: &mut Draws) -> EmojiScene<'a> {
    let relation = draws.one_of(Relation::ALL);
    let first = draws.below(icons.len());
    // One of the others.
    let second = (first + 1 + draws.below(icons.len() - 1)) % icons.len();
    let [one, other] = Place::pair(relation, draws);
    let objects = vec![(&icons[first], one), (&icons[second], other)];
    EmojiScene { objects, relation: Some(relation), background: Background::drawn(draws) }
}

impl Composed for EmojiScene<'_> {
    fn caption(&self) -> String {
        self.words(Omission::Nothing)
    }

    fn varied_caption(&self, seed: u64, index: u64) -> String {
        self.words(Omission::drawn(seed, index))
    }

    fn render(&self, side: usize) -> Picture {
        let mut rgb = self.background.render(side);
        self.lay(side, |place, [red, green, blue, alpha]| {
            for (value, above) in rgb[place * 3..place * 3 + 3].iter_mut().zip([red, green, blue]) {
                *value = (f32::from(*value) * (1.0 - alpha) + above * 255.0 + 0.5).min(255.0) as u8;
            }
        });
        Picture { side, rgb }
    }

    fn mask(&self, side: usize) -> Vec<u8> {
        let mut mask = vec![0_u8; side * side];
        self.lay(side, |place, [.., alpha]| {
            mask[place] = (f32::from(mask[place]) * (1.0 - alpha) + alpha * 255.0 + 0.5).min(255.0) as u8;
        });
        mask
    }

    fn labels(&self) -> Labels {
        let objects = self.objects.iter().map(|(icon, place)| ObjectLabels {
            kind: Kind::Icon { icon: icon.name.clone() },
            size: place.size.name(),
            position: place.position.name(),
            centre: place.centre,
            radius: place.radius,
        });
        Labels::new(self.caption(), objects.collect(), self.relation, &self.background)
    }
}
