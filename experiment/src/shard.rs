//! The part of the prompts that this process works on. The user or a cluster's scheduler sets it.

use std::fmt;
use std::str::FromStr;

use super::prompts::shard_of;
use crate::failure::{Failure, Outcome};

/// Shard `index` of `count`. Shards are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The index.
    pub index: usize,
    /// The number of shards.
    pub count: usize,
}

impl Shard {
    /// The shard that holds everything.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// The given shard, else the shard from the environment, else everything. `count` is the number of shards; some
    /// schedulers set only the index.
    pub fn find(
        typed: Option<Self>,
        count: Option<usize>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Outcome<Self> {
        if let Some(shard) = typed {
            return Ok(shard);
        }
        let number = |name: &str| -> Outcome<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            text.trim().parse().map(Some).map_err(|_| {
                Failure::usage(format!("{name}: expected a whole number, got {text:?} (or give --shard)"))
            })
        };
        // A SLURM array. Its ids may begin anywhere and have equal gaps.
        if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
            let least = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let index = id.checked_sub(least).map_or(usize::MAX, |above| above / step);
            let count = count.or(number("SLURM_ARRAY_TASK_COUNT")?);
            return Self::checked("SLURM_ARRAY_TASK_ID", index, count, "SLURM_ARRAY_TASK_COUNT or --shards");
        }
        if let Some(index) = number("RANK")? {
            let count = count.or(number("WORLD_SIZE")?);
            return Self::checked("RANK", index, count, "WORLD_SIZE or --shards");
        }
        if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            return Self::checked(
                "JOB_COMPLETION_INDEX",
                index,
                count,
                "--shards with the Job's completions",
            );
        }
        match count {
            None | Some(1) => Ok(Self::WHOLE),
            Some(_) => Err(Failure::usage(
                "--shards: expected SLURM_ARRAY_TASK_ID, RANK or JOB_COMPLETION_INDEX beside it (or give --shard m/n)",
            )),
        }
    }

    fn checked(name: &str, index: usize, count: Option<usize>, needs: &str) -> Outcome<Self> {
        let Some(count) = count else {
            return Err(Failure::usage(format!("{name}: expected {needs} beside it (or give --shard)")));
        };
        if index >= count {
            return Err(Failure::usage(format!(
                "{name}: expected one of {count} shards, got number {index}"
            )));
        }
        Ok(Self { index, count })
    }

    /// Whether a prompt belongs to this shard.
    pub fn takes(self, id: &str) -> bool {
        shard_of(id, self.count) == self.index
    }

    /// Whether this shard is everything.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected m/n with m from 0 to n - 1, got {text:?}");
        let (index, count) = text.split_once('/').ok_or_else(expected)?;
        match (index.parse(), count.parse()) {
            (Ok(index), Ok(count)) if index < count => Ok(Self { index, count }),
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(typed: Option<&str>, count: Option<usize>, variables: &[(&str, &str)]) -> Result<String, String> {
        let typed = typed.map(|text| text.parse().unwrap());
        let variable =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        let found = Shard::find(typed, count, variable);
        found.map(|shard| shard.to_string()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn schedulers_tell_the_shard() {
        let slurm = [
            ("SLURM_ARRAY_TASK_ID", "3"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_MAX", "3"),
        ];
        assert_eq!(find(None, None, &slurm).unwrap(), "2/3");
        let gaps = [&slurm[..], &[("SLURM_ARRAY_TASK_STEP", "2")]].concat();
        assert_eq!(find(None, None, &gaps).unwrap(), "1/3");
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")];
        assert_eq!(find(None, None, &torchrun).unwrap(), "1/4");
        let job = [("JOB_COMPLETION_INDEX", "5")];
        assert_eq!(find(None, Some(8), &job).unwrap(), "5/8");
        assert_eq!(find(Some("0/2"), None, &torchrun).unwrap(), "0/2");
        assert_eq!(find(None, None, &[]).unwrap(), "0/1");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (count, variables, named) in [
            (None, &[("JOB_COMPLETION_INDEX", "5")][..], "--shards"),
            (Some(4), &[("JOB_COMPLETION_INDEX", "5")], "one of 4 shards"),
            (None, &[("RANK", "1")], "WORLD_SIZE"),
            (None, &[("RANK", "one"), ("WORLD_SIZE", "2")], "RANK: expected a whole number"),
            (
                None,
                &[
                    ("SLURM_ARRAY_TASK_ID", "0"),
                    ("SLURM_ARRAY_TASK_MIN", "1"),
                    ("SLURM_ARRAY_TASK_COUNT", "2"),
                ],
                "2 shards",
            ),
            (Some(2), &[], "--shard m/n"),
        ] {
            let message = find(None, count, variables).unwrap_err();
            assert!(message.contains(named), "{message}");
        }
        for bad in ["3", "2/2", "a/b", "-1/2", "0/0"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }
}
