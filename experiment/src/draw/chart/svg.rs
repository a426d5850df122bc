//! SVG elements as text, and how wide a text is.

use std::fmt::Write;

/// A position in pixels.
pub(super) type Place = (f64, f64);

/// Where a text begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A document that grows.
pub(super) struct Svg(String);

impl Svg {
    /// An empty white document.
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self(format!(
            "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n"
        ))
    }

    /// The whole document.
    pub(super) fn finish(self) -> String {
        self.0 + "</svg>\n"
    }

    fn element(&mut self, text: std::fmt::Arguments<'_>) {
        // writing to a string cannot fail
        let _ = self.0.write_fmt(text);
    }

    /// A line through places.
    pub(super) fn line(&mut self, places: &[Place], colour: &str, width: f64) {
        let points: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        self.element(format_args!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" points=\"{points}\"/>\n"
        ));
    }

    /// A text whose middle line is at `y`.
    pub(super) fn text(&mut self, (x, y): Place, anchor: Anchor, size: f64, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        // a letter's middle is about a third of its size above the baseline
        let (y, text) = (y + 0.35 * size, escaped(text));
        self.element(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{colour}\">{text}</text>\n"
        ));
    }

    /// A text around a place that reads upwards.
    pub(super) fn text_upwards(&mut self, (x, y): Place, size: f64, colour: &str, text: &str) {
        let (x, text) = (x + 0.35 * size, escaped(text));
        self.element(format_args!(
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\" font-size=\"{size}\" fill=\"{colour}\">{text}</text>\n"
        ));
    }

    /// An empty ring.
    pub(super) fn ring(&mut self, (x, y): Place, radius: f64, colour: &str) {
        self.element(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n"
        ));
    }

    /// A filled mark whose shape is one of four, by number. A pointer over it shows the title.
    pub(super) fn mark(&mut self, (x, y): Place, shape: usize, colour: &str, title: &str) {
        let title = match title {
            "" => String::new(),
            title => format!("<title>{}</title>", escaped(title)),
        };
        let corners = |corners: &[Place]| {
            let places: Vec<String> =
                corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
            places.join(" ")
        };
        let points = match shape % 4 {
            0 => {
                self.element(format_args!(
                    "<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\">{title}</circle>\n"
                ));
                return;
            }
            1 => corners(&[(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)]),
            2 => corners(&[(0.0, -4.8), (4.6, 3.6), (-4.6, 3.6)]),
            _ => corners(&[(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)]),
        };
        self.element(format_args!(
            "<polygon class=\"mark\" points=\"{points}\" fill=\"{colour}\">{title}</polygon>\n"
        ));
    }
}

/// Escapes any text for elements and for attributes in double quotes.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\0' => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// The width of a text in pixels, or a little more. The widths are those of wide common fonts (DejaVu Sans, Verdana).
pub(super) fn width_of(text: &str, size: f64) -> f64 {
    let of = |letter: char| match letter {
        'i' | 'j' | 'l' | 'f' | 't' | 'r' | ' ' | '.' | ',' | ':' | ';' | '|' | '\'' | '!' | '(' | ')'
        | '[' | ']' | '-' | '/' => 0.46,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '=' | '+' | '<' | '>' | '~' | '&' | '#' | '…' | 'Δ' | '–' => {
            1.0
        }
        letter if letter.is_ascii_uppercase() => 0.8,
        letter if letter.is_ascii() => 0.67,
        _ => 1.1,
    };
    size * text.chars().map(of).sum::<f64>()
}

/// A text that is at most so wide. A longer text ends in `…`.
pub(super) fn shortened(text: &str, size: f64, most: f64) -> String {
    if width_of(text, size) <= most {
        return text.to_string();
    }
    let mut short = String::new();
    for letter in text.chars() {
        short.push(letter);
        if width_of(&short, size) + size > most {
            short.pop();
            break;
        }
    }
    format!("{}…", short.trim_end())
}
