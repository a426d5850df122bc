//! Charts at both widths: what is drawn, and that no two texts overlap.

use super::*;

fn mark(x: f64, y: f64, label: &str) -> Mark {
    Mark { at: (x, y), interval: Some((y - 0.5, y + 0.5)), label: label.into(), front: label == "front" }
}

#[test]
fn every_series_is_drawn_and_text_is_escaped() {
    let line = |name: &str| Series::line(name, 0, vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)]);
    let dots = |colour, name: &str| Series {
        name: name.into(),
        marks: vec![mark(0.5, 2.0, "<b>"), mark(1.5, 2.0, "front")],
        form: Form::Dots,
        colour,
    };
    let long =
        "a name that is much longer than the legend of a chart is wide, and longer than any name should be";
    let chart = Chart {
        title: "a < b & c".into(),
        x_label: "step".into(),
        y_label: "variance".into(),
        base: Base::Zero,
        series: vec![line("level 1"), line("level 2"), dots(1, long), dots(8, "squares")],
    };
    for view in [View::Wide, View::Narrow] {
        let svg = chart.to_svg(view);
        assert!(svg.contains(COLOURS[0]));
        // two dots, their sample, and three rings with that of the legend
        assert_eq!((svg.matches("<circle").count(), svg.matches("<polygon").count()), (2 + 1 + 3, 3));
        for words in ["a &lt; b &amp; c", "level 2", "&lt;b&gt;", "squares", FRONT, "…"] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<b>"));
    }
    let empty = Chart { series: Vec::new(), ..chart };
    assert!(empty.to_svg(View::Wide).ends_with("</svg>\n"));
}

/// The rectangles of all horizontal texts of a document, by the widths that the chart reckons with.
fn texts(svg: &str) -> Vec<(Area, String)> {
    let attribute = |element: &str, name: &str| -> String {
        let (_, rest) = element.split_once(&format!(" {name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_string()
    };
    let elements = svg.split("<text ").skip(1).filter(|element| !element.contains("rotate"));
    let area = |element: &str| {
        let element = format!(" {element}");
        let [x, y, size] =
            ["x", "y", "font-size"].map(|name| attribute(&element, name).parse::<f64>().unwrap());
        let text = element.split_once('>').unwrap().1.split_once("</text>").unwrap().0.to_string();
        let width = width_of(&text, size);
        let left = match attribute(&element, "text-anchor").as_str() {
            "start" => x,
            "middle" => x - width / 2.0,
            _ => x - width,
        };
        (Area { left, top: y - 0.8 * size, right: left + width, bottom: y + 0.2 * size }, text)
    };
    elements.map(area).collect()
}

#[test]
fn no_two_texts_overlap_and_none_sticks_out() {
    for (count, view) in [(2, View::Wide), (6, View::Narrow), (12, View::Wide), (12, View::Narrow)] {
        let series = |index: usize| Series {
            name: format!("at-edm recovery=similarity number={index}"),
            marks: (0..5)
                .map(|step| {
                    let x = 3.0 + step as f64 * (1.0 + 0.02 * index as f64);
                    mark(x, 20.0 + step as f64 + 0.1 * index as f64, &format!("ratio=0.{step}"))
                })
                .collect(),
            form: Form::Dots,
            colour: index,
        };
        let chart = Chart {
            title: "PSNR against FLOPs of many series".into(),
            x_label: "a label that is longer than the axis of a narrow chart can be".into(),
            y_label: "PSNR [dB]".into(),
            base: Base::Lowest,
            series: (0..count).map(series).collect(),
        };
        let svg = chart.to_svg(view);
        let found = texts(&svg);
        assert!(found.len() > 10 + count);
        for (index, (area, text)) in found.iter().enumerate() {
            assert!(area.left >= 0.0 && area.right <= view.width(), "{text} {area:?}");
            for (other, words) in &found[..index] {
                assert!(!area.overlaps(other), "{text} over {words}");
            }
        }
    }
}

#[test]
fn a_long_interval_is_cut_off_at_the_frame() {
    let mark = |x: f64, y: f64, high: f64| Mark {
        at: (x, y),
        interval: Some((y - 0.1, high)),
        label: String::new(),
        front: false,
    };
    let marks = vec![mark(0.0, 1.0, 1.1), mark(1.0, 2.0, 900.0)];
    let series = vec![Series { name: "a".into(), marks, form: Form::Dots, colour: 0 }];
    let text = String::new;
    let chart = Chart { title: text(), x_label: text(), y_label: text(), base: Base::Lowest, series };
    let Frame { area, y, .. } = chart.frame(View::Wide);
    assert!(y.low < 0.9 && y.low > 0.5 && y.high > 3.0 && y.high < 3.5, "{y:?}");
    let svg = chart.to_svg(View::Wide);
    let bars: Vec<&str> = svg.lines().filter(|line| line.contains("stroke-width=\"2\"")).collect();
    assert_eq!(bars.len(), 2);
    assert!(bars[1].ends_with(&format!(",{:.1}\"/>", area.top)), "{}", bars[1]);
    // a lone point has room for its interval
    let series = vec![Series { marks: vec![mark(0.0, 1.0, 9.0)], ..chart.series[0].clone() }];
    assert!(Chart { series, ..chart }.frame(View::Wide).y.high > 9.0);
}
