//! Reads tables with commas or tabs between their columns, row by row, with the numbers of their lines.

use csv::{ByteRecord, ReaderBuilder, StringRecord};

use crate::failure::{Failure, Outcome};

/// The sign between two columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Separator {
    /// `.csv`: the first row always names the columns.
    Comma,
    /// `.tsv`: without names, two columns are an id and a prompt.
    Tab,
}

impl Separator {
    fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Tab => b'\t',
        }
    }
}

/// One row with its place in the text.
pub(crate) struct Row {
    /// Counted from 1.
    pub(crate) line: u64,
    pub(crate) fields: StringRecord,
}

impl Row {
    /// A failure that names the line.
    pub(crate) fn wrong(&self, reason: impl std::fmt::Display) -> Failure {
        Failure::usage(format!("line {}: {reason}", self.line))
    }

    /// A field; empty if there is none.
    pub(crate) fn field(&self, column: usize) -> &str {
        self.fields.get(column).unwrap_or_default()
    }

    fn is_blank(&self) -> bool {
        self.fields.iter().all(|field| field.trim().is_empty())
    }
}

/// The rows that are not empty. With `quoted`, fields may be in quotes.
pub(crate) fn rows(text: &str, separator: Separator, quoted: bool) -> impl Iterator<Item = Outcome<Row>> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator.byte())
        .quoting(quoted)
        .from_reader(text.as_bytes());
    std::iter::from_fn(move || {
        loop {
            let mut fields = ByteRecord::new();
            match reader.read_byte_record(&mut fields) {
                Ok(false) => return None,
                Err(error) => return Some(Err(Failure::usage(error))),
                Ok(true) => {}
            }
            let start = fields.position().map_or(0, |position| position.byte() as usize);
            let raw = text.get(start..reader.position().byte() as usize).unwrap_or_default();
            let skipped = raw.len() - raw.trim_start_matches(['\n', '\r']).len();
            let line = fields.position().map_or(0, csv::Position::line)
                + raw[..skipped].matches('\n').count() as u64;
            let fields = StringRecord::from_byte_record_lossy(fields);
            let row = Row { line, fields };
            if row.is_blank() {
                continue;
            }
            let checked = match quoted {
                true => check_quotes(&row, raw.trim_matches(['\n', '\r']), separator),
                false => Ok(()),
            };
            return Some(checked.map(|()| row));
        }
    })
}

/// Checks that every field is quoted as a whole or not at all, and that quotes in it are doubled. Other rows can be read in
/// several ways.
fn check_quotes(row: &Row, raw: &str, separator: Separator) -> Outcome {
    let between = char::from(separator.byte());
    let mut rest = raw;
    for (column, field) in row.fields.iter().enumerate() {
        let written = match rest.starts_with('"') {
            true => format!("\"{}\"", field.replace('"', "\"\"")),
            false => field.to_string(),
        };
        let after = rest.strip_prefix(written.as_str()).and_then(|after| match after.strip_prefix(between) {
            Some(next) => Some(next),
            None => after.is_empty().then_some(after),
        });
        // a tab and a line's end in one field: its quote was closed in another row
        let mixed = separator == Separator::Tab && field.contains('\n') && field.contains('\t');
        let Some(next) = after.filter(|_| !mixed) else {
            let reason = format!("column {}: expected a field quoted whole or not at all", column + 1);
            return Err(row.wrong(reason));
        };
        rest = next;
    }
    Ok(())
}
