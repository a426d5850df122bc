//! The words of a scene: a closed grammar of short whole words.
//!
//! ```text
//! scene      = single | pair
//! single     = object position [clause]            a large red circle on the left on a striped pink background
//! pair       = object relation object [clause]     a small red circle left of a large blue square on a plain gray background
//! object     = ("a" | "an") [size] colour shape
//! clause     = "on a" style tone "background"
//! ```

use super::draws::{Draws, Purpose};
use super::parts::{Background, Colour, Object, Position, Relation, Scene, Shape, Size, Style, Tone};

/// The parts that a caption leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Omission {
    Nothing,
    Sizes,
    Background,
    SizesAndBackground,
}

/// The number of captions that name everything, in 100 training captions.
const FULL_PERCENT: usize = 70;

impl Omission {
    /// The choice for training caption `index` of `seed`.
    pub(crate) fn drawn(seed: u64, index: u64) -> Self {
        let mut draws = Draws::new(seed, Purpose::Caption, 0, index);
        if draws.chance(FULL_PERCENT) {
            Self::Nothing
        } else {
            draws.one_of([Self::Sizes, Self::Background, Self::SizesAndBackground])
        }
    }

    /// Whether the caption names sizes.
    pub(crate) fn leaves_sizes(self) -> bool {
        matches!(self, Self::Nothing | Self::Background)
    }

    /// Whether the caption names the background.
    fn leaves_background(self) -> bool {
        matches!(self, Self::Nothing | Self::Sizes)
    }
}

/// The grammar above objects: their nouns, the relation of the first to the second (or the position of a single one), the
/// background.
pub(crate) fn sentence(
    nouns: &[(String, Position)],
    relation: Option<Relation>,
    background: &Background,
    omission: Omission,
) -> String {
    let mut parts: Vec<&str> = Vec::new();
    match (nouns, relation) {
        ([(first, _), (second, _)], Some(relation)) => parts.extend([first, relation.name(), second]),
        (nouns, _) => nouns.iter().for_each(|(noun, position)| parts.extend([noun, position.phrase()])),
    }
    let clause = format!("on a {} {} background", background.style.name(), background.tone.name());
    if omission.leaves_background() {
        parts.push(&clause);
    }
    parts.join(" ")
}

impl Scene {
    /// The full caption: everything that the grammar can say about the scene, in at most 20 words.
    pub fn caption(&self) -> String {
        self.words(Omission::Nothing)
    }

    /// A caption for training: [`Scene::caption`] in 70 of 100 draws. The others leave out the sizes, the background or
    /// both, so that short prompts work too. The caption is draw `index` of `seed`, and it is always true of the picture.
    pub(crate) fn varied_caption(&self, seed: u64, index: u64) -> String {
        self.words(Omission::drawn(seed, index))
    }

    fn words(&self, omission: Omission) -> String {
        let named = |object: &Object| (noun(object, omission), object.position);
        let nouns: Vec<_> = self.objects.iter().map(named).collect();
        sentence(&nouns, self.relation, &self.background, omission)
    }
}

/// "a large red circle", or without its size "a red circle".
fn noun(object: &Object, omission: Omission) -> String {
    let (colour, shape) = (object.colour.name(), object.shape.name());
    if omission.leaves_sizes() {
        format!("a {} {colour} {shape}", object.size.name())
    } else if object.colour == Colour::Orange {
        format!("an {colour} {shape}")
    } else {
        format!("a {colour} {shape}")
    }
}

/// Captions that hold every word of the grammar at least once, for learning a vocabulary.
// There are as many scenes as the largest set has members. Each set is walked in its own order.
pub(crate) fn vocabulary_captions() -> impl Iterator<Item = String> {
    (0..Colour::ALL.len()).flat_map(|step| {
        let object = |step: usize| Object {
            shape: Shape::ALL[step % Shape::ALL.len()],
            colour: Colour::ALL[step % Colour::ALL.len()],
            size: Size::ALL[step % Size::ALL.len()],
            position: Position::ALL[step % Position::ALL.len()],
            centre: [0.5; 2],
            radius: 0.1,
        };
        let background = Background {
            style: Style::ALL[step % Style::ALL.len()],
            tone: Tone::ALL[step % Tone::ALL.len()],
            phase: [0.0; 2],
        };
        let single = Scene { objects: vec![object(step)], relation: None, background };
        let relation = Relation::ALL[step % Relation::ALL.len()];
        let pair =
            Scene { objects: vec![object(step), object(step + 1)], relation: Some(relation), background };
        [single.caption(), single.words(Omission::SizesAndBackground), pair.caption()]
    })
}
