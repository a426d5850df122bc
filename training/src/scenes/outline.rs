//! Decides which points belong to a shape.

use super::parts::Shape;

/// Half the side of the square, so that its area is near the circle's.
const SQUARE: f32 = 0.88;
/// The ring's hole.
const HOLE: f32 = 0.55;
/// Half the width of the cross's arms.
const ARM: f32 = 0.32;
/// The triangle's corners.
const TRIANGLE: [[f32; 2]; 3] = [[0.0, -0.95], [1.0, 0.85], [-1.0, 0.85]];
/// The star's corners, from angles of 36°. Tips are on the circle of radius 1, notches on that of radius 0.45. The
/// numbers are written out, because sines are not rounded alike everywhere.
const STAR: [[f32; 2]; 10] = [
    [0.0, -1.0],
    [0.264_503, -0.364_058],
    [0.951_057, -0.309_017],
    [0.427_975, 0.139_058],
    [0.587_785, 0.809_017],
    [0.0, 0.45],
    [-0.587_785, 0.809_017],
    [-0.427_975, 0.139_058],
    [-0.951_057, -0.309_017],
    [-0.264_503, -0.364_058],
];

impl Shape {
    /// Whether the point (`x` to the right, `y` down, in radii from the centre) belongs to the shape. All shapes lie in
    /// the square -1..=1.
    pub(super) fn contains(self, x: f32, y: f32) -> bool {
        match self {
            Self::Circle => x * x + y * y <= 1.0,
            Self::Square => x.abs() <= SQUARE && y.abs() <= SQUARE,
            Self::Triangle => in_polygon(&TRIANGLE, x, y),
            Self::Star => in_polygon(&STAR, x, y),
            Self::Ring => (HOLE * HOLE..=1.0).contains(&(x * x + y * y)),
            Self::Cross => x.abs().max(y.abs()) <= 1.0 && x.abs().min(y.abs()) <= ARM,
        }
    }
}

/// Whether a ray from the point to the right crosses the polygon's edges an odd number of times.
fn in_polygon(corners: &[[f32; 2]], x: f32, y: f32) -> bool {
    let edges = corners.iter().zip(corners.iter().cycle().skip(1));
    let crossed = edges
        .filter(|([x0, y0], [x1, y1])| (*y0 > y) != (*y1 > y) && x < x0 + (x1 - x0) * (y - y0) / (y1 - y0));
    crossed.count() % 2 == 1
}
