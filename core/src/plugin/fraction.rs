//! Fractions of tokens: their range, and how a text writes them.

use serde::Deserializer;
use serde::de::{self, Visitor};

use crate::Error;

/// Checks that `ratio`, a fraction of tokens to remove, is in `[0, 1)`.
///
/// # Errors
/// [`Error::Config`] naming `field`.
pub fn check_ratio(field: &str, ratio: f64) -> crate::Result<()> {
    if (0.0..1.0).contains(&ratio) {
        Ok(())
    } else {
        let reason = format!("expected a fraction of tokens to remove, at least 0 and below 1, got {ratio}");
        Err(Error::config(field, reason))
    }
}

/// The fraction that a percentage such as `"30%"` means; `None` for another text. It is the same number as `0.3`, to the last bit.
pub fn percentage(text: &str) -> Option<f64> {
    // Moving the decimal point in the text rounds once; dividing the number would round twice.
    format!("{}e-2", text.strip_suffix('%')?.trim()).parse().ok()
}

/// Deserialises a fraction from a number, `0.3`, or from a share, `"30%"`. Both give the same f64, to the last bit.
pub(crate) fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct ShareVisitor;
    impl Visitor<'_> for ShareVisitor {
        type Value = f64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number or a share such as \"30%\"")
        }
        fn visit_f64<E: de::Error>(self, number: f64) -> Result<f64, E> {
            Ok(number)
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<f64, E> {
            Ok(number as f64)
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<f64, E> {
            Ok(number as f64)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
            let fraction = percentage(text).or_else(|| text.parse().ok());
            fraction.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_any(ShareVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Holder {
        #[serde(deserialize_with = "share")]
        ratio: f64,
    }

    fn read(ratio: serde_json::Value) -> Option<f64> {
        serde_json::from_value::<Holder>(serde_json::json!({ "ratio": ratio }))
            .ok()
            .map(|holder| holder.ratio)
    }

    #[test]
    fn a_share_is_the_same_number() {
        for tenths in 0..1000 {
            let number: f64 = format!("0.{tenths:03}").parse().unwrap();
            let percent = format!("{}.{}%", tenths / 10, tenths % 10);
            assert_eq!(read(percent.clone().into()), Some(number), "{percent}");
            assert_eq!(read(number.into()), Some(number));
        }
        assert_eq!(read("30 %".into()), Some(0.3));
        assert_eq!(read("0.5".into()), Some(0.5));
        assert_eq!(read(0.into()), Some(0.0));
        for bad in ["half", "%", "30%%", "", "3 0%"] {
            assert_eq!(read(bad.into()), None, "{bad}");
        }
        assert_eq!(read(true.into()), None);
    }
}
