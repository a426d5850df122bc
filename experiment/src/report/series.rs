//! Which points of a grid belong to one line of a chart.
//!
//! A line follows one number that a grid entry varies. Points that differ in any other key are on other lines: a line through
//! points of two recoveries, or of two values of another number, would zigzag.

use serde_json::Value;

use crate::grid::plain;
use crate::record::PointInfo;

/// Numbers that a line follows first if several have as many values.
const FIRST: [&str; 2] = ["budget_tflops", "ratio"];

/// A line: its name, the number of its colour, the key that it follows, and its points in order, as places in the run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) colour: usize,
    pub(super) along: Option<String>,
    pub(super) points: Vec<usize>,
}

/// The lines of all points. Each follows the number with the most values in its grid entry.
pub(super) fn groups(points: &[PointInfo]) -> Vec<Group> {
    grouped(points, |point| longest(points, &point.grid))
}

/// The lines of the points that vary a number, along that number. A line that [`groups`] has too keeps its colour, and the others
/// take the free ones.
pub(super) fn groups_along(points: &[PointInfo], key: &str) -> Vec<Group> {
    let varies = |grid: &str| values(points, grid, key).len() > 1;
    let mut found = grouped(points, |point| varies(&point.grid).then(|| key.to_string()));
    found.retain(|group| group.along.is_some());
    let known = groups(points);
    let colour_of =
        |group: &Group| known.iter().position(|other| other.name == group.name && other.along == group.along);
    let kept: Vec<usize> = found.iter().filter_map(colour_of).collect();
    let mut free = (0..).filter(|colour| !kept.contains(colour));
    for group in &mut found {
        group.colour = colour_of(group).or_else(|| free.next()).unwrap_or_default();
    }
    found
}

/// The numbers that grid entries vary, in the order of their entries.
pub(super) fn numbers(points: &[PointInfo]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for point in points {
        for key in point.varied.as_object().into_iter().flat_map(|varied| varied.keys()) {
            if !keys.contains(key) && values(points, &point.grid, key).len() > 1 {
                keys.push(key.clone());
            }
        }
    }
    keys
}

/// The values of a key in a grid entry, each once. None if one of them is no number.
fn values(points: &[PointInfo], grid: &str, key: &str) -> Vec<f64> {
    let own = points.iter().filter(|point| point.grid == grid);
    let numbers: Option<Vec<f64>> =
        own.filter_map(|point| point.varied.get(key)).map(Value::as_f64).collect();
    let mut numbers = numbers.unwrap_or_default();
    numbers.sort_by(f64::total_cmp);
    numbers.dedup();
    numbers
}

/// The number with the most values in a grid entry.
fn longest(points: &[PointInfo], grid: &str) -> Option<String> {
    let own = points.iter().filter(|point| point.grid == grid);
    let mut keys: Vec<&String> =
        own.filter_map(|point| point.varied.as_object()).flat_map(|v| v.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let rank = |key: &String| FIRST.iter().rev().position(|first| first == key).map_or(0, |place| place + 1);
    // of equal ones the first by name
    let order = |key: &&String| (values(points, grid, key).len(), rank(key));
    keys.into_iter().rev().filter(|key| values(points, grid, key).len() > 1).max_by_key(order).cloned()
}

fn grouped(points: &[PointInfo], along: impl Fn(&PointInfo) -> Option<String>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (place, point) in points.iter().enumerate() {
        // another entry of this name may not vary the number
        let along = along(point).filter(|key| point.varied.get(key).is_some());
        let name = name_of(point, along.as_deref());
        match groups.iter_mut().find(|group| group.name == name && group.along == along) {
            Some(group) => group.points.push(place),
            None => groups.push(Group { name, colour: groups.len(), along, points: vec![place] }),
        }
    }
    for group in &mut groups {
        let Some(key) = &group.along else { continue };
        let number = |place: &usize| points.get(*place).and_then(|point| point.varied.get(key)?.as_f64());
        group.points.sort_by(|a, b| number(a).partial_cmp(&number(b)).unwrap_or(std::cmp::Ordering::Equal));
    }
    groups
}

/// The grid entry with the values of all keys that the line does not follow.
fn name_of(point: &PointInfo, along: Option<&str>) -> String {
    let varied = point.varied.as_object().into_iter().flatten();
    let others = varied.filter(|(key, _)| Some(key.as_str()) != along && key.as_str() != "method");
    let method = point.varied.get("method").map(plain).filter(|method| *method != point.grid);
    let words = others.map(|(key, value)| format!("{key}={}", plain(value)));
    std::iter::once(point.grid.clone()).chain(method).chain(words).collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Settings;
    use serde_json::json;

    fn points(varied: &[(&str, Value)]) -> Vec<PointInfo> {
        let settings: Settings = serde_json::from_value(json!({
            "model": "m", "method": "at-edm", "options": {}, "steps": 2, "scheduler": "ddim", "guidance_scale": 7.0,
            "negative_prompt": null, "width": 64, "height": 64, "rng": "torch", "attention": "fused"
        }))
        .unwrap();
        let point = |(index, (grid, varied)): (usize, &(&str, Value))| PointInfo {
            id: index.to_string(),
            label: index.to_string(),
            grid: grid.to_string(),
            varied: varied.clone(),
            config_hash: String::new(),
            settings: settings.clone(),
            budget_tflops: None,
            planned_tflop: None,
            whole_tflop: 1.0,
            reference: None,
        };
        varied.iter().enumerate().map(point).collect()
    }

    fn told(groups: &[Group]) -> Vec<(&str, Option<&str>, &[usize])> {
        groups.iter().map(|g| (g.name.as_str(), g.along.as_deref(), g.points.as_slice())).collect()
    }

    #[test]
    fn options_that_are_no_numbers_split_lines() {
        let points = points(&[
            ("none", json!({})),
            ("a", json!({"ratio": 0.5, "recovery": "zero"})),
            ("a", json!({"ratio": 0.3, "recovery": "zero"})),
            ("a", json!({"ratio": 0.3, "recovery": "similarity"})),
            ("a", json!({"ratio": 0.5, "recovery": "similarity"})),
            ("a", json!({})),
        ]);
        let expected = [
            ("none", None, &[0][..]),
            ("a recovery=zero", Some("ratio"), &[2, 1]),
            ("a recovery=similarity", Some("ratio"), &[3, 4]),
            ("a", None, &[5]),
        ];
        assert_eq!(told(&groups(&points)), expected);
        assert_eq!(numbers(&points), ["ratio"]);
        assert_eq!(told(&groups_along(&points, "ratio")), expected[1..3]);
        let colours = |groups: Vec<Group>| groups.into_iter().map(|group| group.colour).collect::<Vec<_>>();
        assert_eq!(
            [colours(groups(&points)), colours(groups_along(&points, "ratio"))],
            [vec![0, 1, 2, 3], vec![1, 2]]
        );
    }

    #[test]
    fn a_line_follows_the_number_with_the_most_values_and_others_split_it() {
        let grid = |tau: u32, ratio: f64| ("a", json!({"ratio": ratio, "tau": tau}));
        let points =
            points(&[grid(0, 0.3), grid(10, 0.3), grid(5, 0.3), grid(0, 0.5), grid(5, 0.5), grid(10, 0.5)]);
        let expected =
            [("a ratio=0.3", Some("tau"), &[0, 2, 1][..]), ("a ratio=0.5", Some("tau"), &[3, 4, 5])];
        assert_eq!(told(&groups(&points)), expected);
        assert_eq!(numbers(&points), ["ratio", "tau"]);
        let along = groups_along(&points, "ratio");
        assert_eq!(along.iter().map(|g| g.points.clone()).collect::<Vec<_>>(), [[0, 3], [1, 5], [2, 4]]);
        assert_eq!(along.iter().map(|g| g.colour).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn mixed_values_and_methods_are_no_numbers() {
        let points = points(&[
            ("set", json!({"method": "tome", "tau": 1})),
            ("set", json!({"method": "tome", "tau": "30%"})),
            ("tome", json!({"method": "tome", "tau": 1})),
        ]);
        assert!(numbers(&points).is_empty());
        let names: Vec<String> = groups(&points).into_iter().map(|group| group.name).collect();
        assert_eq!(names, ["set tome tau=1", "set tome tau=30%", "tome tau=1"]);
    }
}
