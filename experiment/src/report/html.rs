//! Text and pictures in the form that the page needs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(super) use crate::draw::escaped;
use crate::failure::Outcome;
use crate::files::{Picture, png_bytes};

/// Any JSON value, indented.
pub(super) fn pretty(value: &Value) -> String {
    // Serializing a JSON value cannot fail.
    escaped(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// A chart as an element of the page, with its caption above it. The page shows the wide or the narrow document, whichever fits.
pub(super) fn figure([wide, narrow]: [String; 2], caption: &str) -> String {
    let caption = escaped(caption);
    let named = |svg: &str, class: &str| {
        let start = format!("<svg class=\"{class}\" role=\"img\" aria-label=\"{caption}\" ");
        svg.replacen("<svg ", &start, 1)
    };
    let (wide, narrow) = (named(&wide, "at-wide"), named(&narrow, "at-narrow"));
    format!("<figure class=\"chart\"><figcaption>{caption}</figcaption>{wide}{narrow}</figure>\n")
}

/// The `src` of a picture.
pub(super) fn data_uri(picture: &Picture) -> Outcome<String> {
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png_bytes(picture, &[])?)))
}

/// The hash of an inline script for a content security policy.
pub(super) fn script_hash(script: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(script.as_bytes())))
}

/// Seconds since 1970 in the form `2026-11-21 08:30 UTC`.
pub(super) fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days of the civil calendar. Years begin in March, in cycles of 400 years.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = cycle * 400 + year + next;
    format!("{year}-{month:02}-{of_month:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

/// Shrinks the picture until its longer side has at most `most` pixels. Each new pixel is the mean of those that it
/// replaces.
pub(super) fn smaller(picture: &Picture, most: usize) -> Picture {
    let longer = picture.width.max(picture.height);
    if longer <= most {
        return picture.clone();
    }
    let side = |pixels: usize| (pixels * most / longer).max(1);
    let (width, height) = (side(picture.width), side(picture.height));
    let mut small = Picture::filled(width, height, [0; 3]);
    let span = |at: usize, of: usize, from: usize| (at * from / of, ((at + 1) * from).div_ceil(of));
    for y in 0..height {
        let (top, bottom) = span(y, height, picture.height);
        for x in 0..width {
            let (left, right) = span(x, width, picture.width);
            let mut sums = [0usize; 3];
            for row in top..bottom {
                for column in left..right {
                    let pixel = picture.pixel(column, row);
                    sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += usize::from(value));
                }
            }
            let count = ((bottom - top) * (right - left)).max(1);
            small.set(x, y, sums.map(|sum| ((sum + count / 2) / count) as u8));
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_user_wrote_is_markup() {
        assert_eq!(
            escaped("<a href=\"x\" b='y'>&\0"),
            "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\u{fffd}"
        );
        assert_eq!(
            pretty(&serde_json::json!({"a": "</pre>"})),
            "{\n  &quot;a&quot;: &quot;&lt;/pre&gt;&quot;\n}"
        );
    }

    #[test]
    fn dates_are_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_827_696, "2000-02-29 12:34 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59 UTC"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn smaller_pictures_hold_means() {
        let mut picture = Picture::filled(4, 2, [10, 20, 30]);
        (0..2).for_each(|y| picture.set(3, y, [30, 20, 10]));
        let small = smaller(&picture, 2);
        assert_eq!((small.width, small.height), (2, 1));
        assert_eq!((small.pixel(0, 0), small.pixel(1, 0)), ([10, 20, 30], [20, 20, 20]));
        assert_eq!(smaller(&picture, 4), picture);
        assert_eq!(smaller(&picture, 3).width, 3);
    }

    #[test]
    fn a_chart_has_a_name_at_both_widths() {
        let named = figure(["<svg width=\"2\"></svg>", "<svg width=\"1\"></svg>"].map(String::from), "a < b");
        assert!(named.starts_with("<figure class=\"chart\"><figcaption>a &lt; b</figcaption>"));
        for (class, width) in [("at-wide", 2), ("at-narrow", 1)] {
            let start =
                format!("<svg class=\"{class}\" role=\"img\" aria-label=\"a &lt; b\" width=\"{width}\">");
            assert!(named.contains(&start), "{named}");
        }
    }
}
