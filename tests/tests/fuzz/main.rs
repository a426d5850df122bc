//! Damages files of every kind that the program reads. For any content, the program must end without a panic or an abort,
//! in less than 1 GB of memory. It must report the fault in one line.
//!
//! Cases are numbered, and a number alone makes its files again. Cases run in child processes of this test's own program.
//! They call the library and the whole program in turn. `ATEDM_FUZZ_SECONDS` sets how long (30), `ATEDM_FUZZ_FROM` the
//! first number. `ATEDM_FUZZ_CASE` runs one case and shows it. Files of cases with faults stay below `target/tmp/fuzz`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step of the harness ends the test")]

mod cases;
mod child;
mod corpus;
mod damage;
mod draw;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use child::{Ended, Orders};
use corpus::Corpus;

/// The number of child processes at a time.
const CHILDREN: u64 = 2;
/// No case of these small files may take longer, even on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);
/// KiB of address space of a child. A larger allocation aborts the child and does not harm the machine.
const ADDRESS_SPACE: &str = "8388608";

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// In a child process, runs the given cases. Otherwise there is nothing to do.
#[test]
fn child() {
    if let Some(orders) = Orders::received() {
        orders.whole_files_are_accepted();
        orders.carry_out();
    }
}

#[test]
fn damaged_files_end_in_one_line() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    fs::create_dir_all(root.join("corpus")).unwrap();
    Corpus::write(&root.join("corpus"));
    let only = setting("ATEDM_FUZZ_CASE");
    let first = only.or_else(|| setting("ATEDM_FUZZ_FROM")).unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(setting("ATEDM_FUZZ_SECONDS").unwrap_or(30));
    let children = if only.is_some() { 1 } else { CHILDREN };
    let mut found = Found::default();
    std::thread::scope(|scope| {
        let watch = |start| {
            let root = &root;
            move || Watch { root, step: children, until, only }.over(start)
        };
        let handles: Vec<_> = (0..children).map(|number| scope.spawn(watch(first + number))).collect();
        handles.into_iter().for_each(|handle| found.add(handle.join().unwrap()));
    });
    found.show();
    assert!(found.count() > 0, "no case was run");
    assert!(found.faults.is_empty(), "{} faults, see above", found.faults.len());
}

/// The results of the cases.
#[derive(Default)]
struct Found {
    /// Kinds with the numbers of accepted and of refused cases.
    kinds: BTreeMap<String, [usize; 2]>,
    faults: Vec<String>,
}

impl Found {
    fn add(&mut self, other: Self) {
        for (kind, [accepted, refused]) in other.kinds {
            let counts = self.kinds.entry(kind).or_default();
            *counts = [counts[0] + accepted, counts[1] + refused];
        }
        self.faults.extend(other.faults);
    }

    fn count(&self) -> usize {
        self.kinds.values().flatten().sum()
    }

    fn show(&self) {
        println!("{} cases", self.count());
        for (kind, [accepted, refused]) in &self.kinds {
            println!("  {kind:<12} {accepted:>6} accepted, {refused:>6} refused");
        }
        self.faults.iter().for_each(|fault| println!("\n{fault}"));
    }
}

/// Runs children in a row. Each continues after the case that ended the one before.
struct Watch<'a> {
    root: &'a Path,
    step: u64,
    until: Instant,
    only: Option<u64>,
}

impl Watch<'_> {
    fn over(&self, start: u64) -> Found {
        let mut found = Found::default();
        let mut next = start;
        while Instant::now() < self.until {
            let folder = self.root.join(format!("from-{next}"));
            fs::create_dir_all(&folder).unwrap();
            let begun = next;
            let status = self.run(begun, &folder);
            let ended = Ended::read(&folder);
            for (kind, accepted) in ended.cases {
                found.kinds.entry(kind).or_default()[usize::from(!accepted)] += 1;
            }
            found.faults.extend(ended.faults);
            let Some((number, words)) = ended.unfinished else {
                assert!(
                    status.is_some_and(|status| status.success()),
                    "a child failed outside of a case: {status:?}"
                );
                break;
            };
            let how =
                status.map_or("took too long".to_string(), |status| format!("ended the process ({status})"));
            found.faults.push(format!("case {number} {how}: {words}\n{}", ended.told));
            child::keep(self.root, &folder.join("case"), number);
            next = number + self.step;
            if self.only.is_some() {
                break;
            }
        }
        found
    }

    /// Runs a child to its end. `None` if it had to be stopped.
    fn run(&self, from: u64, folder: &Path) -> Option<ExitStatus> {
        let orders = Orders {
            root: self.root.to_path_buf(),
            folder: folder.to_path_buf(),
            from,
            step: self.step,
            seconds: self.until.saturating_duration_since(Instant::now()).as_secs(),
            only: self.only.is_some(),
        };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\"")]);
        command.arg(std::env::current_exe().unwrap()).args([
            "--exact",
            "child",
            "--nocapture",
            "--test-threads",
            "1",
        ]);
        orders.give(&mut command);
        // The output for a panic is its message alone.
        command.env("RUST_BACKTRACE", "0");
        let stream = |name: &str| File::create(folder.join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stream(child::TOLD));
        wait(command.spawn().unwrap(), &folder.join(child::LOG))
    }
}

/// Waits for a child as long as it writes to its log. Stops a child that does not.
fn wait(mut child: Child, log: &PathBuf) -> Option<ExitStatus> {
    let (mut length, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        let now = fs::metadata(log).map_or(0, |found| found.len());
        if now != length {
            (length, since) = (now, Instant::now());
        }
        if since.elapsed() > LONGEST {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
