//! Scenes of simple shapes, composed by a seeded program: the data of the `shapes` tier.
//!
//! A [`Scene`] holds one or two objects (shape, colour, size, position) before a background (style, colour). It gives its
//! caption in a closed grammar, draws itself at any size, and knows its exact foreground mask. Nothing is stored. Scene
//! `index` of a stream is a function of seed, [`Split`] and index alone. Its bytes are the same on every machine, because
//! it uses only operations that IEEE 754 rounds in one way.
//!
//! Training and evaluation use any tier's data through [`SceneSource`] and [`Composed`]. [`Shapes`] is this tier's
//! source.
//!
//! About a tenth of all (shape, colour, background style) triples never occur in [`Split::Train`]. The same holds for a
//! tenth of all pairs of (shape, colour) objects. Each scene of [`Split::HeldOut`] shows one of them (`held_out`).
//!
//! ```
//! use atedm_training::scenes::{Scene, Split};
//!
//! let scene = Scene::sample(7, Split::Train, 0);
//! let picture = scene.render(64);
//! assert_eq!(picture.rgb.len(), 64 * 64 * 3);
//! assert_eq!(scene.mask(64).len(), 64 * 64);
//! println!("{}", scene.caption());
//! ```

pub(crate) mod caption;
pub(crate) mod draws;
pub(crate) mod held_out;
mod outline;
mod parts;
mod picture;
pub(crate) mod place;
mod render;
pub(crate) mod sample;
mod source;
#[cfg(test)]
mod tests;

pub use parts::{Background, Colour, Object, Position, Relation, Scene, Shape, Size, Split, Style, Tone};
pub use picture::Picture;
pub use source::{BackgroundLabels, Composed, Kind, Labels, ObjectLabels, Objects, SceneSource, Shapes};
