//! The interface through which training and evaluation use any tier's data.

use serde::Serialize;

use super::caption::vocabulary_captions;
use super::draws::Draws;
use super::parts::{Background, Relation, Scene, Split};
use super::picture::Picture;
use super::place::SINGLE_PERCENT;

/// A stream of composed scenes.
pub trait SceneSource: Send + Sync {
    /// Scene `index` of `split`. It does not depend on other scenes.
    fn scene<'a>(&'a self, split: Split, index: u64) -> Box<dyn Composed + 'a>;

    /// Captions that hold every word of the source's captions, for learning a vocabulary.
    fn vocabulary_captions<'a>(&'a self) -> Box<dyn Iterator<Item = String> + 'a>;
}

/// A composed scene.
pub trait Composed {
    /// The full caption: everything that captions can say about the scene, in at most 20 words.
    fn caption(&self) -> String;

    /// Draw `index` of `seed`'s training captions. It may be shorter than the full caption, but it is always true.
    fn varied_caption(&self, seed: u64, index: u64) -> String;

    /// The scene drawn in `side` × `side` pixels.
    fn render(&self, side: usize) -> Picture;

    /// The share of each pixel that objects cover, 0..=255, `side * side` by rows.
    fn mask(&self, side: usize) -> Vec<u8>;

    /// The labels of the picture, for classifiers.
    fn labels(&self) -> Labels;
}

/// The number of objects in the scenes of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Objects {
    /// One object in 60 of 100 scenes, two in the others.
    #[default]
    OneOrTwo,
    /// One object.
    One,
    /// Two objects.
    Two,
}

impl Objects {
    /// Whether the next scene shows one object, not two.
    pub(crate) fn shows_one(self, draws: &mut Draws) -> bool {
        match self {
            Self::OneOrTwo => draws.chance(SINGLE_PERCENT),
            Self::One => true,
            Self::Two => false,
        }
    }
}

/// The `shapes` tier's stream of [`Scene`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shapes {
    /// Seed of the stream.
    pub seed: u64,
    /// Objects in a scene.
    pub objects: Objects,
}

impl SceneSource for Shapes {
    fn scene<'a>(&'a self, split: Split, index: u64) -> Box<dyn Composed + 'a> {
        Box::new(Scene::sample_of(self.objects, self.seed, split, index))
    }

    fn vocabulary_captions<'a>(&'a self) -> Box<dyn Iterator<Item = String> + 'a> {
        Box::new(vocabulary_captions())
    }
}

impl Composed for Scene {
    fn caption(&self) -> String {
        self.caption()
    }

    fn varied_caption(&self, seed: u64, index: u64) -> String {
        self.varied_caption(seed, index)
    }

    fn render(&self, side: usize) -> Picture {
        self.render(side)
    }

    fn mask(&self, side: usize) -> Vec<u8> {
        self.mask(side)
    }

    fn labels(&self) -> Labels {
        let objects = self.objects.iter().map(|object| ObjectLabels {
            kind: Kind::Shape { shape: object.shape.name(), colour: object.colour.name() },
            size: object.size.name(),
            position: object.position.name(),
            centre: object.centre,
            radius: object.radius,
        });
        Labels::new(self.caption(), objects.collect(), self.relation, &self.background)
    }
}

/// The ground truth of a scene, in the form of `labels.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Labels {
    /// The full caption.
    pub caption: String,
    /// The objects, in the caption's order.
    pub objects: Vec<ObjectLabels>,
    /// The relation of the first object to the second, if there is one.
    pub relation: Option<&'static str>,
    /// The background.
    pub background: BackgroundLabels,
}

/// One object of [`Labels`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ObjectLabels {
    /// The thing that it shows.
    #[serde(flatten)]
    pub kind: Kind,
    /// `small` or `large`.
    pub size: &'static str,
    /// `left`, `right`, `top`, `bottom` or `center`.
    pub position: &'static str,
    /// Its centre: across, then down, in shares of the side.
    pub centre: [f32; 2],
    /// Half the side of the square that encloses it, in shares of the side.
    pub radius: f32,
}

/// The thing that an object shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Kind {
    /// A coloured shape.
    Shape {
        /// Its shape's name.
        shape: &'static str,
        /// Its colour's name.
        colour: &'static str,
    },
    /// A picture of an icon set.
    Icon {
        /// Its name in the set.
        icon: String,
    },
}

/// The background of [`Labels`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BackgroundLabels {
    /// `plain`, `gradient`, `striped` or `dotted`.
    pub style: &'static str,
    /// Its colour's name.
    pub colour: &'static str,
}

impl Labels {
    pub(crate) fn new(
        caption: String,
        objects: Vec<ObjectLabels>,
        relation: Option<Relation>,
        background: &Background,
    ) -> Self {
        let background = BackgroundLabels { style: background.style.name(), colour: background.tone.name() };
        Self { caption, objects, relation: relation.map(Relation::name), background }
    }
}
