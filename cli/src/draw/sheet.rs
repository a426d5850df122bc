//! A contact sheet: rows of pictures under column titles, with row titles at the left.

use super::text::{GLYPH, write};
use crate::files::Picture;

const MARGIN: usize = 8;
const PAPER: [u8; 3] = [250, 250, 250];
const INK: [u8; 3] = [20, 20, 20];
const FAINT: [u8; 3] = [120, 120, 120];

/// One picture and the line below it.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    /// What is shown, at any size; it is sampled down to the sheet's.
    pub(crate) picture: Picture,
    /// A short line.
    pub(crate) caption: String,
}

/// A contact sheet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sheet {
    /// The line above everything.
    pub(crate) title: String,
    /// Above each column.
    pub(crate) columns: Vec<String>,
    /// At the left of each row, and its cells.
    pub(crate) rows: Vec<(String, Vec<Cell>)>,
}

impl Sheet {
    /// Draws it with pictures whose longer side has `side` pixels.
    pub(crate) fn draw(&self, side: usize) -> Picture {
        let largest = |of: fn(&Picture) -> usize| {
            self.rows.iter().flat_map(|(_, cells)| cells).map(|cell| of(&cell.picture)).max().unwrap_or(1)
        };
        let (width, height) = (largest(|p| p.width), largest(|p| p.height));
        let longer = width.max(height).max(1);
        let (cell_width, cell_height) = ((width * side / longer).max(1), (height * side / longer).max(1));
        let label =
            GLYPH * self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + MARGIN;
        let (step_x, step_y) = (cell_width + MARGIN, cell_height + GLYPH + 2 * MARGIN);
        let (left, top) = (MARGIN + label, 3 * MARGIN + 2 * GLYPH);
        let inner = left + self.columns.len() * step_x;
        let total = inner.max(2 * MARGIN + GLYPH * self.title.chars().count());
        let mut sheet = Picture::filled(total, top + self.rows.len() * step_y, PAPER);
        write(&mut sheet, MARGIN, MARGIN, &self.title, INK);
        for (index, name) in self.columns.iter().enumerate() {
            write(&mut sheet, left + index * step_x, 2 * MARGIN + GLYPH, name, INK);
        }
        for (row, (name, cells)) in self.rows.iter().enumerate() {
            let y = top + row * step_y;
            write(&mut sheet, MARGIN, y + cell_height / 2, name, INK);
            for (column, cell) in cells.iter().enumerate() {
                let x = left + column * step_x;
                place(&mut sheet, &cell.picture, (x, y), (cell_width, cell_height));
                let room = cell_width / GLYPH;
                let caption: String = cell.caption.chars().take(room).collect();
                write(&mut sheet, x, y + cell_height + 3, &caption, FAINT);
            }
        }
        sheet
    }
}

/// Samples `picture` into a rectangle of the sheet.
fn place(sheet: &mut Picture, picture: &Picture, at: (usize, usize), size: (usize, usize)) {
    for y in 0..size.1 {
        for x in 0..size.0 {
            let colour = picture.pixel(x * picture.width / size.0, y * picture.height / size.1);
            sheet.set(at.0 + x, at.1 + y, colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_on_the_sheet() {
        let cell = |shade: u8| Cell { picture: Picture::filled(4, 4, [shade, 7, 7]), caption: "1/2".into() };
        let sheet = Sheet {
            title: "title".into(),
            columns: vec!["step 0".into(), "step 1".into()],
            rows: vec![("mid.0".into(), vec![cell(1), cell(2)]), ("up.0.0".into(), vec![cell(3), cell(4)])],
        };
        let drawn = sheet.draw(16);
        for shade in 1..=4 {
            let pixels = drawn.rgb.chunks(3).filter(|pixel| *pixel == [shade, 7, 7]).count();
            assert_eq!(pixels, 256, "cell {shade}");
        }
        assert!(drawn.rgb.chunks(3).any(|pixel| pixel == INK));
        assert!(Sheet::default().draw(16).width > 0);
    }
}
