//! What is measured of an image, and which direction is better.

use std::fmt;
use std::str::FromStr;

use crate::failure::{Failure, Outcome};
use crate::record::{Distances, Record};

/// Which values of a metric are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Larger values, as of PSNR.
    Higher,
    /// Smaller values, as of distances.
    Lower,
}

impl Better {
    /// Whether `a` is better than `b`.
    #[must_use]
    pub fn prefers(self, a: f64, b: f64) -> bool {
        match self {
            Self::Higher => a > b,
            Self::Lower => a < b,
        }
    }
}

impl FromStr for Better {
    type Err = Failure;

    fn from_str(word: &str) -> Outcome<Self> {
        match word {
            "higher" => Ok(Self::Higher),
            "lower" => Ok(Self::Lower),
            other => Err(Failure::usage(format!("expected higher or lower, got {other:?}"))),
        }
    }
}

impl fmt::Display for Better {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Higher => "higher is better",
            Self::Lower => "lower is better",
        })
    }
}

/// A measure of images.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// Its key in tables for programs: `latent_l2`.
    pub key: String,
    /// Its name for readers: `latent L2`.
    pub name: String,
    /// Its name with the unit, for axes.
    pub axis: String,
    /// Digits after the decimal point.
    pub digits: usize,
    /// Which direction is better.
    pub better: Better,
}

/// A distance to the unpruned image that every record has.
pub(super) struct Distance {
    key: &'static str,
    name: &'static str,
    axis: &'static str,
    digits: usize,
    better: Better,
    of: fn(&Distances) -> f64,
}

/// The distances of a record, in the order of the tables.
pub(super) const DISTANCES: [Distance; 4] = [
    Distance {
        key: "psnr",
        name: "PSNR",
        axis: "PSNR [dB]",
        digits: 2,
        better: Better::Higher,
        // equal pictures have no finite PSNR
        of: |distances| distances.psnr.unwrap_or(f64::INFINITY),
    },
    Distance {
        key: "ssim",
        name: "SSIM",
        axis: "SSIM",
        digits: 3,
        better: Better::Higher,
        of: |distances| distances.ssim,
    },
    Distance {
        key: "latent_l2",
        name: "latent L2",
        axis: "latent L2",
        digits: 2,
        better: Better::Lower,
        of: |distances| distances.latent_l2,
    },
    Distance {
        key: "latent_l2_relative",
        name: "relative L2",
        axis: "relative latent L2",
        digits: 3,
        better: Better::Lower,
        of: |distances| distances.latent_l2_relative,
    },
];

impl Distance {
    /// How tables and charts show it.
    pub(super) fn metric(&self) -> Metric {
        let Self { key, name, axis, digits, better, .. } = *self;
        Metric { key: key.into(), name: name.into(), axis: axis.into(), digits, better }
    }

    /// The value of an image; infinite for the PSNR of equal pictures. `None` if the image was not compared.
    pub(super) fn value(&self, record: &Record) -> Option<f64> {
        record.distances.as_ref().map(self.of)
    }
}
