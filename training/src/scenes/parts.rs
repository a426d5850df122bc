//! The parts of a scene: the closed sets of the grammar, and the objects and backgrounds chosen from them.

/// The outline of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    /// A disc.
    Circle,
    /// An upright square.
    Square,
    /// A triangle, point up.
    Triangle,
    /// A star of five points, one up.
    Star,
    /// A disc with a hole, through which the background is seen.
    Ring,
    /// An upright cross of equal arms.
    Cross,
}

impl Shape {
    /// All shapes, in the order of [`Shape::index`].
    pub const ALL: [Self; 6] =
        [Self::Circle, Self::Square, Self::Triangle, Self::Star, Self::Ring, Self::Cross];

    /// Its place in [`Shape::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its word in captions.
    pub fn name(self) -> &'static str {
        ["circle", "square", "triangle", "star", "ring", "cross"][self.index()]
    }
}

/// The colour of an object. No background ([`Tone`]) has any of these colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // each is its name
pub enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    Orange,
    Purple,
    White,
    Black,
}

impl Colour {
    /// All colours, in the order of [`Colour::index`].
    pub const ALL: [Self; 8] = [
        Self::Red,
        Self::Green,
        Self::Blue,
        Self::Yellow,
        Self::Orange,
        Self::Purple,
        Self::White,
        Self::Black,
    ];

    /// Its place in [`Colour::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its word in captions.
    pub fn name(self) -> &'static str {
        ["red", "green", "blue", "yellow", "orange", "purple", "white", "black"][self.index()]
    }

    /// Red, green, blue of 0..=255.
    pub fn rgb(self) -> [u8; 3] {
        [
            [222, 24, 28],
            [24, 150, 44],
            [30, 60, 225],
            [255, 228, 30],
            [255, 128, 8],
            [132, 28, 178],
            [255, 255, 255],
            [12, 12, 14],
        ][self.index()]
    }
}

/// The size of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Size {
    /// A radius of about 9 of 64 pixels.
    Small,
    /// A radius of about 15 of 64 pixels.
    Large,
}

impl Size {
    /// Both sizes, in the order of [`Size::index`].
    pub const ALL: [Self; 2] = [Self::Small, Self::Large];

    /// Its place in [`Size::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its word in captions.
    pub fn name(self) -> &'static str {
        ["small", "large"][self.index()]
    }
}

/// The position of an object. In a scene of two objects, each has one half of the picture, and the halves are opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // each is its name
pub enum Position {
    Left,
    Right,
    Top,
    Bottom,
    Center,
}

impl Position {
    /// All positions, in the order of [`Position::index`].
    pub const ALL: [Self; 5] = [Self::Left, Self::Right, Self::Top, Self::Bottom, Self::Center];

    /// Its place in [`Position::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its word in captions.
    pub fn name(self) -> &'static str {
        ["left", "right", "top", "bottom", "center"][self.index()]
    }

    /// Its words in the caption of a scene of one object.
    pub(crate) fn phrase(self) -> &'static str {
        ["on the left", "on the right", "at the top", "at the bottom", "in the center"][self.index()]
    }
}

/// The relation of the first of two objects to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // each is its name
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    /// All relations, in the order of [`Relation::index`].
    pub const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    /// Its place in [`Relation::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its words in captions.
    pub fn name(self) -> &'static str {
        ["left of", "right of", "above", "below"][self.index()]
    }

    /// The halves of the picture that the first and the second object have.
    pub fn positions(self) -> [Position; 2] {
        match self {
            Self::LeftOf => [Position::Left, Position::Right],
            Self::RightOf => [Position::Right, Position::Left],
            Self::Above => [Position::Top, Position::Bottom],
            Self::Below => [Position::Bottom, Position::Top],
        }
    }
}

/// The pattern of a background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Style {
    /// One colour.
    Plain,
    /// A gradient from a lighter tint at the top to a darker one at the bottom.
    Gradient,
    /// Diagonal stripes of a darker tint.
    Striped,
    /// A grid of dots of a darker tint.
    Dotted,
}

impl Style {
    /// All styles, in the order of [`Style::index`].
    pub const ALL: [Self; 4] = [Self::Plain, Self::Gradient, Self::Striped, Self::Dotted];

    /// Its place in [`Style::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its word in captions.
    pub fn name(self) -> &'static str {
        ["plain", "gradient", "striped", "dotted"][self.index()]
    }
}

/// The colour of a background. Tones are muted and differ from the objects' colours ([`Colour`]), so that each object
/// stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // each is its name
pub enum Tone {
    Gray,
    Pink,
    Cyan,
    Brown,
}

impl Tone {
    /// All tones, in the order of [`Tone::index`].
    pub const ALL: [Self; 4] = [Self::Gray, Self::Pink, Self::Cyan, Self::Brown];

    /// Its place in [`Tone::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its word in captions.
    pub fn name(self) -> &'static str {
        ["gray", "pink", "cyan", "brown"][self.index()]
    }

    /// Red, green, blue of 0..=255.
    pub fn rgb(self) -> [u8; 3] {
        [[148, 148, 150], [240, 160, 190], [120, 205, 212], [128, 90, 62]][self.index()]
    }
}

/// One object of a scene.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Its outline.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its size by name.
    pub size: Size,
    /// Its position by name.
    pub position: Position,
    /// Its centre: across, then down, in shares of the side (0..1).
    pub centre: [f32; 2],
    /// Half the side of the square that encloses it, in shares of the side.
    pub radius: f32,
}

/// The background of a scene.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Background {
    /// Its pattern.
    pub style: Style,
    /// Its colour.
    pub tone: Tone,
    /// The start of the pattern: across and down, in periods (0..1).
    pub phase: [f32; 2],
}

/// A composed picture: one object, or two in a relation, before a background.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// One or two objects, in the order in which the caption names them.
    pub objects: Vec<Object>,
    /// The relation of the first object to the second; `None` for a single object.
    pub relation: Option<Relation>,
    /// The background.
    pub background: Background,
}

/// The kind of combinations that a stream of scenes shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Scenes for training. None has a held-out combination.
    Train,
    /// Scenes for evaluation. Each has a held-out combination.
    HeldOut,
}

impl Split {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "held-out",
        }
    }
}
