//! The resolution levels at which a method works.

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// The resolution levels of a U-Net at which a method works. Level 0 is the full latent size. SD-XL has attention
/// at levels 1 and 2.
///
/// A configuration writes `"all"`, `"deepest"`, one number, a list, or a list such as `"1+2"`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Levels {
    /// Every level.
    #[default]
    All,
    /// Only the lowest resolution, as in the paper's "†" (1024 tokens at 1024 px). It must be [resolved](Levels::resolved).
    Deepest,
    /// These levels.
    List(Vec<usize>),
}

impl Levels {
    /// These levels, with the model's deepest level in place of [`Levels::Deepest`].
    pub fn resolved(&self, deepest_level: usize) -> Self {
        match self {
            Self::Deepest => Self::List(vec![deepest_level]),
            other => other.clone(),
        }
    }

    /// Checks that a model with deepest attention level `deepest` has every listed level.
    ///
    /// # Errors
    /// [`Error::Config`] with field `levels`.
    pub fn check(&self, deepest: usize) -> Result<()> {
        let Self::List(levels) = self else { return Ok(()) };
        match levels.iter().find(|&&level| level > deepest) {
            Some(level) => {
                let reason = format!("expected levels from 0 to {deepest}, the model's deepest, got {level}");
                Err(Error::config("levels", reason))
            }
            None => Ok(()),
        }
    }

    /// Whether `level` is one of them. An unresolved [`Levels::Deepest`] contains no level.
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

/// Reads `"0+4"` as `[0, 4]`. This form serves where a comma already separates options.
fn plus_list(text: &str) -> Option<Vec<usize>> {
    text.split('+').map(|part| part.trim().parse().ok()).collect()
}

/// Deserialises a list of numbers. It is written as a list, as one number, or as `"0+4"`.
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

#[cfg(test)]
mod tests {
    use super::*;

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
