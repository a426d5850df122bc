//! Whose time it is: one clock that everything timed shares, so that every moment is booked once.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use atedm_core::{Error, Result};

/// What an evaluation spends its time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Convolutions, norms, embeddings, residuals.
    Rest,
    /// Attention sublayers with their projections.
    Attention,
    /// Feed-forward sublayers.
    FeedForward,
    /// Scores: votes, and whatever else a scorer does.
    Scoring,
    /// From scores to kept tokens, and the method's own bookkeeping.
    Selection,
    /// Making fewer tokens of many.
    Gather,
    /// Planning what stands for pruned tokens, and putting it there.
    Recovery,
}

impl Phase {
    /// All of them with their names, in the order in which they are shown.
    pub(super) const ALL: [(Self, &'static str); 7] = [
        (Self::Attention, "attention"),
        (Self::FeedForward, "feed-forward"),
        (Self::Rest, "rest"),
        (Self::Scoring, "scoring"),
        (Self::Selection, "selection"),
        (Self::Gather, "gather"),
        (Self::Recovery, "recovery"),
    ];
}

/// Seconds by phase.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Times([f64; 7]);

impl Times {
    /// The seconds of one phase.
    pub(super) fn of(&self, phase: Phase) -> f64 {
        self.0.get(phase as usize).copied().unwrap_or(0.0)
    }

    /// All phases together.
    pub(super) fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    /// What a method costs: scoring, selection, gather and recovery.
    pub(super) fn overhead(&self) -> f64 {
        [Phase::Scoring, Phase::Selection, Phase::Gather, Phase::Recovery]
            .map(|phase| self.of(phase))
            .iter()
            .sum()
    }

    /// Adds seconds to a phase.
    pub(super) fn add(&mut self, phase: Phase, seconds: f64) {
        if let Some(booked) = self.0.get_mut(phase as usize) {
            *booked += seconds;
        }
    }

    /// Books up to `seconds` of one phase as another's.
    pub(super) fn rebook(&mut self, from: Phase, to: Phase, seconds: f64) {
        let moved = seconds.clamp(0.0, self.of(from));
        self.add(from, -moved);
        self.add(to, moved);
    }

    /// The median of each phase.
    pub(super) fn medians(of: &[Self]) -> Self {
        let mut medians = Self::default();
        for (phase, _) in Phase::ALL {
            medians.add(phase, median(of.iter().map(|times| times.of(phase)).collect()));
        }
        medians
    }
}

/// The middle value, or the mean of the middle two; 0 for none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), values.get(half.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => 0.5 * (lower + upper),
        (Some(middle), _) => *middle,
        (None, _) => 0.0,
    }
}

/// Waits for the device.
type Synchronize = Box<dyn FnMut() -> Result<()> + Send>;

/// What is booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Every phase: the device is waited for at each change.
    Phases,
    /// The total alone, as [`Phase::Rest`]: nothing is waited for in between.
    Total,
}

struct Clock {
    phase: Phase,
    since: Instant,
    times: Times,
    detail: Detail,
    synchronize: Synchronize,
}

/// A handle of the one clock.
#[derive(Clone)]
pub(super) struct SharedClock(Arc<Mutex<Clock>>);

impl fmt::Debug for SharedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedClock")
    }
}

impl SharedClock {
    /// A clock that calls `synchronize` wherever it reads the time.
    pub(super) fn new(synchronize: Synchronize) -> Self {
        let (phase, times, detail) = (Phase::Rest, Times::default(), Detail::Phases);
        Self(Arc::new(Mutex::new(Clock { phase, since: Instant::now(), times, detail, synchronize })))
    }

    fn lock(&self) -> Result<MutexGuard<'_, Clock>> {
        let reason = "panicked on an earlier call".into();
        self.0.lock().map_err(|_| Error::Plugin { name: "clock".into(), reason })
    }

    /// From now on it is `phase`'s time; gives back whose it was.
    pub(super) fn turn(&self, phase: Phase) -> Result<Phase> {
        let mut clock = self.lock()?;
        if clock.detail == Detail::Phases {
            clock.book()?;
        }
        Ok(std::mem::replace(&mut clock.phase, phase))
    }

    /// Does `work` in `phase`'s time.
    pub(super) fn during<R>(&self, phase: Phase, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let before = self.turn(phase)?;
        let result = work()?;
        self.turn(before)?;
        Ok(result)
    }

    /// Times `work` from a clean slate.
    pub(super) fn time<R>(&self, detail: Detail, work: impl FnOnce() -> Result<R>) -> Result<(R, Times)> {
        {
            let mut clock = self.lock()?;
            clock.detail = detail;
            clock.book()?;
            clock.phase = Phase::Rest;
            clock.times = Times::default();
        }
        let result = work()?;
        let mut clock = self.lock()?;
        if detail == Detail::Total {
            clock.phase = Phase::Rest;
        }
        clock.book()?;
        Ok((result, clock.times))
    }
}

impl Clock {
    fn book(&mut self) -> Result<()> {
        (self.synchronize)()?;
        let now = Instant::now();
        let (phase, seconds) = (self.phase, now.duration_since(self.since).as_secs_f64());
        self.times.add(phase, seconds);
        self.since = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_moment_is_booked_once() {
        let clock = SharedClock::new(Box::new(|| Ok(())));
        let nap = || sleep(Duration::from_millis(20));
        let work = || {
            nap();
            clock.during(Phase::Selection, || {
                nap();
                clock.during(Phase::Scoring, || {
                    nap();
                    Ok(())
                })?;
                nap();
                Ok(())
            })
        };
        let (_, times) = clock.time(Detail::Phases, work).unwrap();
        assert!(times.of(Phase::Selection) >= 0.04 && times.of(Phase::Scoring) >= 0.02);
        assert!(times.of(Phase::Rest) >= 0.02 && times.of(Phase::Attention) == 0.0);
        assert!((times.overhead() - times.of(Phase::Selection) - times.of(Phase::Scoring)).abs() < 1e-12);
        let (_, total) = clock.time(Detail::Total, work).unwrap();
        assert!(total.of(Phase::Rest) >= 0.08 && total.overhead() == 0.0);
    }

    #[test]
    fn rebooking_moves_no_more_than_there_is() {
        let mut times = Times::default();
        times.add(Phase::Attention, 1.0);
        times.rebook(Phase::Attention, Phase::Scoring, 0.25);
        times.rebook(Phase::Attention, Phase::Scoring, -1.0);
        assert_eq!((times.of(Phase::Attention), times.of(Phase::Scoring)), (0.75, 0.25));
        times.rebook(Phase::Attention, Phase::Scoring, 9.0);
        assert_eq!((times.of(Phase::Attention), times.total()), (0.0, 1.0));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert_eq!(median(vec![4.0, 1.0, 2.0]), 2.0);
    }
}
