//! A program for the suites. It prints reports as text or as JSON.

use std::process::ExitCode;

use atedm_core::{Error, Result};

use crate::report::Report;

/// The format of printed reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl Format {
    /// Reads a program's arguments, without its name: nothing, `--format text` or `--format json`.
    fn parse(arguments: &[&str]) -> Result<Self> {
        match arguments {
            [] | ["--format", "text"] | ["--format=text"] => Ok(Self::Text),
            ["--format", "json"] | ["--format=json"] => Ok(Self::Json),
            other => {
                let got = other.join(" ");
                Err(Error::config(
                    "arguments",
                    format!("expected --format text or --format json, got {got:?}"),
                ))
            }
        }
    }

    fn print(self, reports: &[Report]) -> Result<String> {
        match self {
            Self::Text => Ok(reports.iter().map(|report| format!("{report}\n")).collect()),
            Self::Json => serde_json::to_string_pretty(reports)
                .map(|json| json + "\n")
                .map_err(|error| Error::config("report", error.to_string())),
        }
    }
}

/// The `main` of a program that prints the reports of `suites` to the standard output. With `--format json` they are a
/// JSON array, else text. The program fails if a report has a fault.
pub fn main_with(suites: impl FnOnce() -> Vec<Report>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let format = Format::parse(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let printed = format.and_then(|format| {
        let reports = suites();
        print!("{}", format.print(&reports)?);
        Ok(reports.iter().all(Report::is_conforming))
    });
    match printed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_text_or_json() {
        assert_eq!(Format::parse(&[]).unwrap(), Format::Text);
        assert_eq!(Format::parse(&["--format", "json"]).unwrap(), Format::Json);
        let error = Format::parse(&["--format", "xml"]).unwrap_err().to_string();
        assert_eq!(error, "arguments: expected --format text or --format json, got \"--format xml\"");
    }

    #[test]
    fn json_is_an_array_of_reports() {
        let report = Report::new("method", "example", Vec::new());
        let json = Format::Json.print(std::slice::from_ref(&report)).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Report>>(&json).unwrap(), [report]);
    }
}
