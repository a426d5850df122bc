//! When and where a method works: schedules over blocks and steps, resolution levels, and a wrapper that gives both to
//! any method. Denoising-steps-aware pruning (DSAP, paper section 3.3) "is also applicable to other methods".

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::reducer::{Action, Event, Run, TokenReducer, Wants};
use super::site::{BlockId, Row, Site, Step, Sublayer};
use crate::backend::AttentionOps;
use crate::{Error, Result};

/// One question to a schedule: how much of this block is removed at this step?
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleQuery {
    /// The attention block.
    pub block: BlockId,
    /// 0-based step in the full schedule.
    pub step: usize,
    /// Steps of the full schedule.
    pub total: usize,
    /// The fraction that the configuration removes where nothing else is said.
    pub ratio: f64,
}

/// Distributes pruning over blocks and denoising steps. Object-safe, found by name in a registry.
pub trait PruningSchedule: Send + std::fmt::Debug {
    /// The fraction of tokens to remove, in `[0, 1)`; 0 leaves the block whole.
    fn ratio(&self, query: &ScheduleQuery) -> f64;

    /// A run of `steps` steps is about to begin.
    ///
    /// # Errors
    /// [`Error::Config`] when the schedule does not fit so many steps.
    fn begin(&self, _steps: usize) -> Result<()> {
        Ok(())
    }

    /// A copy.
    fn boxed(&self) -> Box<dyn PruningSchedule>;
}

/// The U-Net resolution levels at which a method works; level 0 is the full latent size (SD-XL has attention at 1 and 2).
///
/// In a configuration: `"all"`, `"deepest"`, one number, a list, or a list written `"1+2"`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Levels {
    /// Every level.
    #[default]
    All,
    /// The lowest resolution only (the paper's "†": 1024 tokens at 1024 px). Must be [resolved](Levels::resolved).
    Deepest,
    /// These levels.
    List(Vec<usize>),
}

impl Levels {
    /// These levels, with [`Levels::Deepest`] replaced by the model's deepest level.
    pub fn resolved(&self, deepest_level: usize) -> Self {
        match self {
            Self::Deepest => Self::List(vec![deepest_level]),
            other => other.clone(),
        }
    }

    /// Whether `level` is one of them; an unresolved [`Levels::Deepest`] contains none.
    pub fn contains(&self, level: usize) -> bool {
        match self {
            Self::All => true,
            Self::Deepest => false,
            Self::List(list) => list.contains(&level),
        }
    }
}

impl Serialize for Levels {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Deepest => serializer.serialize_str("deepest"),
            Self::List(list) => serializer.collect_seq(list),
        }
    }
}

impl<'de> Deserialize<'de> for Levels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct LevelsVisitor;
        impl<'de> Visitor<'de> for LevelsVisitor {
            type Value = Levels;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"all\", \"deepest\", a level, a list of levels such as [1, 2], or \"1+2\"")
            }
            fn visit_u64<E: de::Error>(self, level: u64) -> std::result::Result<Levels, E> {
                Ok(Levels::List(vec![index(level)?]))
            }
            fn visit_i64<E: de::Error>(self, level: i64) -> std::result::Result<Levels, E> {
                let level = u64::try_from(level)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(level), &self))?;
                self.visit_u64(level)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Levels, E> {
                match text {
                    "all" => Ok(Levels::All),
                    "deepest" => Ok(Levels::Deepest),
                    other => plus_list(other)
                        .map(Levels::List)
                        .ok_or_else(|| E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Levels, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Levels::List)
            }
        }
        deserializer.deserialize_any(LevelsVisitor)
    }
}

fn index<E: de::Error>(number: u64) -> std::result::Result<usize, E> {
    usize::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &"a small number"))
}

/// `"0+4"` as `[0, 4]`: lists where a comma already separates options.
fn plus_list(text: &str) -> Option<Vec<usize>> {
    text.split('+').map(|part| part.trim().parse().ok()).collect()
}

/// Deserialises a list of numbers written as a list, as one number, or as `"0+4"`.
pub(crate) fn index_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<usize>, D::Error> {
    struct ListVisitor;
    impl<'de> Visitor<'de> for ListVisitor {
        type Value = Vec<usize>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number, a list of numbers such as [0, 4], or \"0+4\"")
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<Vec<usize>, E> {
            Ok(vec![index(number)?])
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<Vec<usize>, E> {
            let number =
                u64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))?;
            self.visit_u64(number)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Vec<usize>, E> {
            plus_list(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Vec<usize>, A::Error> {
            Vec::deserialize(de::value::SeqAccessDeserializer::new(seq))
        }
    }
    deserializer.deserialize_any(ListVisitor)
}

/// A schedule confined to some levels: the one place that decides whether and how much a block is reduced.
#[derive(Debug)]
pub struct Gate {
    schedule: Box<dyn PruningSchedule>,
    levels: Levels,
    ratio: f64,
}

impl Gate {
    /// A gate that lets `ratio` through at `levels`, as `schedule` distributes it.
    ///
    /// # Errors
    /// [`Error::Config`] when `ratio` is not in `[0, 1)` or `levels` is an unresolved [`Levels::Deepest`].
    pub fn new(schedule: Box<dyn PruningSchedule>, levels: Levels, ratio: f64) -> Result<Self> {
        check_ratio("ratio", ratio)?;
        if levels == Levels::Deepest {
            let reason = "\"deepest\" needs the model: give the build context the model's deepest_level";
            return Err(Error::config("levels", reason));
        }
        Ok(Self { schedule, levels, ratio })
    }

    /// The fraction to remove in `block` at `step` of `total`; 0 where the block stays whole.
    ///
    /// # Errors
    /// [`Error::Plugin`] when the schedule answers with a value outside `[0, 1)`.
    pub fn ratio(&self, block: BlockId, step: usize, total: usize) -> Result<f64> {
        if !self.levels.contains(block.level) {
            return Ok(0.0);
        }
        let ratio = self.schedule.ratio(&ScheduleQuery { block, step, total, ratio: self.ratio });
        if (0.0..1.0).contains(&ratio) {
            Ok(ratio)
        } else {
            Err(Error::Plugin {
                name: "schedule".into(),
                reason: format!("expected a ratio in [0, 1) for {block} at step {step}, got {ratio}"),
            })
        }
    }

    /// Checks that the schedule fits a run of `steps` steps.
    ///
    /// # Errors
    /// As [`PruningSchedule::begin`].
    pub fn begin(&self, steps: usize) -> Result<()> {
        self.schedule.begin(steps)
    }
}

impl Clone for Gate {
    fn clone(&self) -> Self {
        Self { schedule: self.schedule.boxed(), levels: self.levels.clone(), ratio: self.ratio }
    }
}

/// That `ratio`, a fraction of tokens to remove, is in `[0, 1)`.
///
/// # Errors
/// [`Error::Config`] naming `field`.
pub fn check_ratio(field: &str, ratio: f64) -> Result<()> {
    if (0.0..1.0).contains(&ratio) {
        Ok(())
    } else {
        let reason = format!("expected a fraction of tokens to remove, at least 0 and below 1, got {ratio}");
        Err(Error::config(field, reason))
    }
}

/// A method whose strength can change from site to site, so that a schedule can set it.
pub trait WithRatio {
    /// The fraction of tokens that the next site removes.
    fn set_ratio(&mut self, ratio: f64);
}

/// Any method under a schedule, confined to some levels: where the gate says 0 the method is not asked at all.
#[derive(Debug)]
pub struct Scheduled<R> {
    inner: R,
    gate: Gate,
}

impl<R: WithRatio> Scheduled<R> {
    /// `inner` under `gate`.
    pub fn new(inner: R, gate: Gate) -> Self {
        Self { inner, gate }
    }

    /// The method, set to this site's strength, or `None` where it rests.
    fn awake(&mut self, site: &Site<'_>) -> Result<Option<&mut R>> {
        let ratio = self.gate.ratio(site.block, site.step.index, site.step.total)?;
        if ratio == 0.0 {
            return Ok(None);
        }
        self.inner.set_ratio(ratio);
        Ok(Some(&mut self.inner))
    }
}

impl<T: AttentionOps, R: TokenReducer<T> + WithRatio> TokenReducer<T> for Scheduled<R> {
    fn begin_image(&mut self, run: &Run<'_>) -> Result<()> {
        self.gate.begin(run.steps)?;
        self.inner.begin_image(run)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.inner.begin_step(step, rows)
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<Wants<T>> {
        match self.awake(site)? {
            Some(inner) => inner.wants(site, sub),
            None => Ok(Wants::Nothing),
        }
    }

    fn at(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        match self.awake(site)? {
            Some(inner) => inner.at(site, event),
            None => Ok(Action::Continue),
        }
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.inner.end_step(prediction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn PruningSchedule>) {}

    #[test]
    fn levels_read_every_form_and_round_trip() {
        let read = |text: &str| serde_json::from_str::<Levels>(text).unwrap();
        assert_eq!(read("\"all\""), Levels::All);
        assert_eq!(read("\"deepest\""), Levels::Deepest);
        assert_eq!(read("2"), Levels::List(vec![2]));
        assert_eq!(read("[1,2]"), Levels::List(vec![1, 2]));
        assert_eq!(read("\"1+2\""), Levels::List(vec![1, 2]));
        for levels in [Levels::All, Levels::Deepest, Levels::List(vec![0, 3])] {
            assert_eq!(read(&serde_json::to_string(&levels).unwrap()), levels);
        }
        for bad in ["-1", "\"1,2\"", "\"top\"", "true", "[1,-2]", "\"\""] {
            assert!(serde_json::from_str::<Levels>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn deepest_is_nothing_until_resolved() {
        assert!(!Levels::Deepest.contains(2));
        assert!(Levels::Deepest.resolved(2).contains(2));
        assert!(!Levels::Deepest.resolved(2).contains(1));
        assert!(Levels::All.resolved(2).contains(0));
    }
}
