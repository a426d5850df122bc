//! A contact sheet: rows of pictures under column titles. Row titles are on the left; long ones take several lines.

use super::text::{GLYPH, write};
use crate::files::Picture;

const MARGIN: usize = 8;
/// Letters of a row title per line.
const LINE: usize = 28;
/// Pixels between the tops of two lines of a row title.
const LEADING: usize = GLYPH + 4;
const PAPER: [u8; 3] = [250, 250, 250];
const INK: [u8; 3] = [20, 20, 20];
const FAINT: [u8; 3] = [120, 120, 120];

/// A picture and the line below it.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The picture, of any size. It is scaled down to the sheet's size.
    pub picture: Picture,
    /// A short caption.
    pub caption: String,
}

/// A contact sheet.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    /// The line above everything.
    pub title: String,
    /// The title of each column.
    pub columns: Vec<String>,
    /// The rows, from top to bottom.
    pub rows: Vec<SheetRow>,
}

/// A row of a contact sheet.
#[derive(Debug, Clone)]
pub struct SheetRow {
    /// The text at its left.
    pub name: String,
    /// Its cells, one for each column.
    pub cells: Vec<Cell>,
}

impl Sheet {
    /// Draws the sheet. The longer side of each picture has `side` pixels.
    pub fn draw(&self, side: usize) -> Picture {
        let largest = |of: fn(&Picture) -> usize| {
            self.rows.iter().flat_map(|row| &row.cells).map(|cell| of(&cell.picture)).max().unwrap_or(1)
        };
        let (width, height) = (largest(|p| p.width), largest(|p| p.height));
        let longer = width.max(height).max(1);
        let (cell_width, cell_height) = ((width * side / longer).max(1), (height * side / longer).max(1));
        let names: Vec<Vec<String>> = self.rows.iter().map(|row| lines(&row.name)).collect();
        let label =
            GLYPH * names.iter().flatten().map(|line| line.chars().count()).max().unwrap_or(0) + MARGIN;
        let (step_x, step_y) = (cell_width + MARGIN, cell_height + GLYPH + 2 * MARGIN);
        let (left, top) = (MARGIN + label, 3 * MARGIN + 2 * GLYPH);
        let inner = left + self.columns.len() * step_x;
        let total = inner.max(2 * MARGIN + GLYPH * self.title.chars().count());
        let mut sheet = Picture::filled(total, top + self.rows.len() * step_y, PAPER);
        write(&mut sheet, MARGIN, MARGIN, &self.title, INK);
        for (index, name) in self.columns.iter().enumerate() {
            write(&mut sheet, left + index * step_x, 2 * MARGIN + GLYPH, name, INK);
        }
        for (index, (row, name)) in self.rows.iter().zip(&names).enumerate() {
            let y = top + index * step_y;
            let middle = (cell_height / 2).saturating_sub(LEADING * name.len().saturating_sub(1) / 2);
            for (number, line) in name.iter().take((cell_height / LEADING).max(1)).enumerate() {
                write(&mut sheet, MARGIN, y + middle + number * LEADING, line, INK);
            }
            for (column, cell) in row.cells.iter().enumerate() {
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

/// Splits a row title into lines of at most [`LINE`] letters. Lines break between words, and inside words that are too
/// long.
fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let words = text.split_whitespace().map(|word| word.chars().collect::<Vec<char>>());
    for word in words.flat_map(|word| word.chunks(LINE).map(String::from_iter).collect::<Vec<String>>()) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// Scales `picture` into a rectangle of the sheet.
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
    fn long_titles_are_broken_between_words() {
        assert_eq!(lines("mid.0"), ["mid.0"]);
        assert_eq!(
            lines("a large red star on the left on a striped pink background"),
            ["a large red star on the left", "on a striped pink background"]
        );
        let word = "w".repeat(LINE + 1);
        assert_eq!(lines(&format!("a {word} b")), ["a", &word[1..], "w b"]);
        assert_eq!(lines(" "), [""; 0]);
    }

    #[test]
    fn every_cell_is_on_the_sheet() {
        let cell = |shade: u8| Cell { picture: Picture::filled(4, 4, [shade, 7, 7]), caption: "1/2".into() };
        let sheet = Sheet {
            title: "title".into(),
            columns: vec!["step 0".into(), "step 1".into()],
            rows: vec![
                SheetRow { name: "mid.0".into(), cells: vec![cell(1), cell(2)] },
                SheetRow { name: "up.0.0".into(), cells: vec![cell(3), cell(4)] },
            ],
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
