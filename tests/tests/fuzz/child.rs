//! A child process. It runs cases one after the other, and records the result of each.

use std::fs::{self, File};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use atedm_experiment::bench::machine::{peak_bytes, reset_peak};
use serde::{Deserialize, Serialize};

use super::cases::Case;
use super::corpus::{BOMB, Corpus};
use super::damage::damaged;

/// The child's log. It has a line when a case begins, and one when it ends.
pub(crate) const LOG: &str = "log.jsonl";
/// Its standard error stream.
pub(crate) const TOLD: &str = "told.txt";
/// The variable that passes the orders to a child.
const ORDERS: &str = "ATEDM_FUZZ_ORDERS";
/// The maximum bytes of memory that a case may need.
const MOST: u64 = 1 << 30;
/// The maximum number of characters of a message.
const LONGEST_LINE: usize = 300;
/// The number of cases whose files are also tried without damage.
const WHOLE: u64 = 80;
/// A file outside of every folder that a case may write to.
const KEPT: &str = "outside/kept";

/// The orders of a child.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) root: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) from: u64,
    pub(crate) step: u64,
    pub(crate) seconds: u64,
    /// Only the first case.
    pub(crate) only: bool,
}

/// A line of the log.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Begun { number: u64, words: String },
    Ended { kind: String, accepted: bool, fault: Option<String> },
}

impl Orders {
    /// The orders of this process, if it is a child.
    pub(crate) fn received() -> Option<Self> {
        serde_json::from_str(&std::env::var(ORDERS).ok()?).ok()
    }

    /// Passes the orders to a child.
    pub(crate) fn give(&self, command: &mut Command) {
        command.env(ORDERS, serde_json::to_string(self).unwrap());
    }

    /// Files are accepted before cases damage them. Otherwise the cases would show nothing.
    pub(crate) fn whole_files_are_accepted(&self) {
        let corpus = Corpus::at(&self.root.join("corpus"));
        for number in (self.from..WHOLE).step_by(self.step as usize) {
            let folder = self.folder.join("whole");
            let case = Case::prepare(number, &corpus, &folder, |_, _, content| Some(content.to_vec()));
            assert!(case.damaged == BOMB || case.run(number), "case {number}: {}", case.words());
            fs::remove_dir_all(folder).unwrap();
        }
    }

    /// Runs cases until the time is over.
    pub(crate) fn carry_out(&self) {
        let corpus = Corpus::at(&self.root.join("corpus"));
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let mut log = File::create(self.folder.join(LOG)).unwrap();
        let mut say = |line: &Line| writeln!(log, "{}", serde_json::to_string(line).unwrap()).unwrap();
        let folder = self.folder.join("case");
        let mut number = self.from;
        loop {
            if folder.exists() {
                fs::remove_dir_all(&folder).unwrap();
            }
            let case = Case::prepare(number, &corpus, &folder, damaged);
            fs::create_dir_all(folder.join("outside")).unwrap();
            fs::write(folder.join(KEPT), KEPT).unwrap();
            say(&Line::Begun { number, words: case.words() });
            let (accepted, fault) = self.judged(&case, number, &folder);
            let fault = fault.map(|what| format!("case {number} {what}\n{}", case.words()));
            if fault.is_some() {
                keep(&self.root, &folder, number);
            }
            say(&Line::Ended { kind: format!("{:?}", case.kind), accepted, fault });
            number += self.step;
            if self.only || Instant::now() >= until {
                break;
            }
        }
    }

    /// Runs a case. Gives whether the damaged file was accepted, and what is wrong with the end of the case.
    fn judged(&self, case: &Case, number: u64, folder: &Path) -> (bool, Option<String>) {
        let told = self.folder.join(TOLD);
        let before = fs::metadata(&told).unwrap().len() as usize;
        let measured = reset_peak();
        let ended = catch_unwind(AssertUnwindSafe(|| case.run(number)));
        let peak = peak_bytes().filter(|_| measured).unwrap_or(0);
        let text = fs::read(&told).unwrap();
        let text = String::from_utf8_lossy(&text[before..]);
        let fault = match ended {
            Err(_) => Some(format!("panicked: {text:.1500}")),
            Ok(_) if peak > MOST => Some(format!("took {} MB: {text:.300}", peak >> 20)),
            Ok(_) if !is_untouched(folder) => Some("changed what is outside of its folder".into()),
            Ok(accepted) if case.is_told() => ill_told(&text, accepted),
            Ok(_) => None,
        };
        (ended.unwrap_or(false), fault)
    }
}

/// Whether the surroundings of the case's files are unchanged.
fn is_untouched(folder: &Path) -> bool {
    let ours = |name: &str| name == "input" || name == "outside" || name.starts_with("output");
    fs::read_to_string(folder.join(KEPT)).is_ok_and(|content| content == KEPT)
        && fs::read_dir(folder.join("outside")).unwrap().count() == 1
        && fs::read_dir(folder).unwrap().all(|entry| entry.unwrap().file_name().to_str().is_some_and(ours))
}

/// Checks the messages. A failure must end with one line `error: …`, and every line must be short and harmless.
fn ill_told(text: &str, accepted: bool) -> Option<String> {
    let lines: Vec<&str> = text.split_terminator('\n').collect();
    let errors = lines.iter().filter(|line| line.starts_with("error: ")).count();
    let strange = |line: &&&str| {
        line.chars().any(char::is_control)
            || line.chars().count() > LONGEST_LINE
            || !accepted && !line.starts_with("warning: ") && !line.starts_with("error: ")
    };
    if let Some(line) = lines.iter().find(strange) {
        return Some(format!("told a line that is no message: {line:.600?}"));
    }
    match (accepted, errors) {
        (true, 0) | (false, 1) => None,
        (true, _) => Some(format!("succeeded with an error: {text:.600}")),
        (false, _) => Some(format!("failed with {errors} lines of error: {text:.600}")),
    }
}

/// Keeps a case's files, so that a person can look at them.
pub(crate) fn keep(root: &Path, folder: &Path, number: u64) {
    let place = root.join(format!("case-{number}"));
    fs::rename(folder, place).unwrap();
}

/// The record that a child has written.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Kinds, and whether each case was accepted.
    pub(crate) cases: Vec<(String, bool)>,
    pub(crate) faults: Vec<String>,
    /// The case that did not return.
    pub(crate) unfinished: Option<(u64, String)>,
    /// The end of its messages.
    pub(crate) told: String,
}

impl Ended {
    /// Reads the record of a child.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut ended = Self::default();
        let log = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
        for line in log.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match line {
                Line::Begun { number, words } => ended.unfinished = Some((number, words)),
                Line::Ended { kind, accepted, fault } => {
                    ended.unfinished = None;
                    ended.cases.push((kind, accepted));
                    ended.faults.extend(fault);
                }
            }
        }
        let told = fs::read(folder.join(TOLD)).unwrap_or_default();
        ended.told = String::from_utf8_lossy(&told[told.len().saturating_sub(1000)..]).into_owned();
        ended
    }
}
