use std::collections::BTreeSet;
use std::fs;

use tempfile::TempDir;

use super::held_out::{pair_held_out, triple_held_out};
use super::noun::{noun, slug, words};
use super::*;
use crate::scenes::Background;

/// Three drawings of our own in the packages' formats. They are a full square, a half-transparent square of half the
/// side in the middle, and a disc with an alias. The files also have entries that the reader must skip.
fn packages() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    write(
        "noto/icons.json",
        r##"{"prefix": "noto", "width": 128, "height": 128, "icons": {
            "red-brick": {"body": "<rect width='128' height='128' fill='#f00000'/>"},
            "ice": {"body": "<rect x='16' y='16' width='32' height='32' fill='#0000ff' opacity='.5'/>", "width": 64, "height": 64},
            "yellow-ball": {"body": "<circle cx='64' cy='64' r='64' fill='#ffff00'/>"},
            "smile": {"body": "<circle cx='64' cy='64' r='64'/>"}, "unlabelled": {"body": ""}
        }, "aliases": {"ball": {"parent": "yellow-ball"}, "round": {"parent": "round"}}}"##,
    );
    write(
        "emojibase/en/data.json",
        r#"[{"label": "Red brick", "group": 7, "order": 1}, {"label": "ice", "group": 3}, {"label": "ball", "group": 7},
            {"label": "smile", "group": 0}, {"label": "round", "group": 7}, {"label": "not drawn", "group": 3},
            {"label": "regional indicator A"}]"#,
    );
    write(
        "emojibase/meta/groups.json",
        r#"{"groups": {"0": "smileys-emotion", "3": "animals-nature", "7": "objects"}, "hierarchy": {}}"#,
    );
    folder
}

fn options(folder: &TempDir) -> EmojiOptions {
    let groups = ["animals-nature", "objects"].map(str::to_owned).to_vec();
    EmojiOptions { groups, seed: 5, ..EmojiOptions::new(folder.path()) }
}

#[test]
fn drawings_are_those_with_a_label_in_the_groups() {
    let emoji = Emoji::open(&options(&packages())).unwrap();
    assert_eq!(emoji.labels().collect::<Vec<_>>(), ["ball", "ice", "red brick"]);
}

#[test]
fn labels_become_words_and_names() {
    for (label, said, name) in [
        ("T-Rex", "t rex", "t-rex"),
        ("man\u{2019}s shoe", "mans shoe", "mans-shoe"),
        ("piñata", "pinata", "pinata"),
        ("globe showing Europe-Africa", "globe showing europe africa", "globe-showing-europe-africa"),
    ] {
        assert_eq!((words(label).as_deref(), &*slug(label)), (Some(said), name));
    }
    assert_eq!(words("fork and knife with plate"), None);
    for (label, plain, sized) in [
        ("red apple", "a red apple", "a small red apple"),
        ("orange", "an orange", "a small orange"),
        ("umbrella", "an umbrella", "a small umbrella"),
        ("unicorn", "a unicorn", "a small unicorn"),
        ("hourglass done", "an hourglass done", "a small hourglass done"),
        ("one piece swimsuit", "a one piece swimsuit", "a small one piece swimsuit"),
        ("grapes", "grapes", "small grapes"),
        ("octopus", "an octopus", "a small octopus"),
        ("compass", "a compass", "a small compass"),
    ] {
        assert_eq!((noun(label, None), noun(label, Some(Size::Small))), (plain.to_owned(), sized.to_owned()));
    }
}

#[test]
fn masks_are_the_drawings_alpha() {
    let emoji = Emoji::open(&options(&packages())).unwrap();
    let mut seen = BTreeSet::new();
    for index in 0..60 {
        let side = 160;
        let scene = EmojiScene::sample(&emoji.icons, (5, Objects::One), Split::Train, index);
        let (icon, place) = scene.objects[0];
        let (mask, picture) = (scene.mask(side), scene.render(side));
        let bare = scene.background.render(side);
        let area = mask.iter().map(|&share| f64::from(share) / 255.0).sum::<f64>();
        let square = (2.0 * f64::from(place.radius) * side as f64).powi(2);
        let (share, colour, alpha) = match &*icon.name {
            "red-brick" => (1.0, [240.0, 0.0, 0.0], 1.0),
            "ice" => (0.25 * 0.5, [0.0, 0.0, 255.0], 0.5),
            _ => (std::f64::consts::FRAC_PI_4, [255.0, 255.0, 0.0], 1.0),
        };
        assert!((area / square - share).abs() < 0.01, "{}: {}", icon.name, area / square);
        let pixel = |share: f32| ((share * side as f32) as usize).min(side - 1);
        let centre = pixel(place.centre[1]) * side + pixel(place.centre[0]);
        assert!((f64::from(mask[centre]) / 255.0 - alpha).abs() < 0.01);
        for (channel, colour) in colour.into_iter().enumerate() {
            let at = centre * 3 + channel;
            let expected = f64::from(bare[at]) * (1.0 - alpha) + colour * alpha;
            assert!((f64::from(picture.rgb[at]) - expected).abs() < 2.0, "{}", icon.name);
        }
        for (place, _) in mask.iter().enumerate().filter(|(_, share)| **share == 0) {
            assert_eq!(picture.rgb[place * 3..place * 3 + 3], bare[place * 3..place * 3 + 3]);
        }
        seen.insert(icon.name.clone());
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn splits_captions_and_labels_are_as_for_shapes() {
    let folder = packages();
    let emoji = Emoji::open(&options(&folder)).unwrap();
    let mut pairs = 0;
    for index in 0..300 {
        let train = EmojiScene::sample(&emoji.icons, (5, Objects::OneOrTwo), Split::Train, index);
        let held_out = EmojiScene::sample(&emoji.icons, (5, Objects::OneOrTwo), Split::HeldOut, index);
        assert!(!train.is_held_out() && held_out.is_held_out());
        let scene = emoji.scene(Split::Train, index);
        assert_eq!(scene.caption(), train.caption());
        assert!(scene.caption().split(' ').count() <= 20);
        let short = scene.varied_caption(1, index);
        assert!(short.split(' ').all(|word| word == "an" || scene.caption().contains(word)), "{short}");
        let labels = scene.labels();
        assert_eq!(labels.objects.len(), train.objects.len());
        assert_eq!(labels.relation.is_some(), labels.objects.len() == 2);
        pairs += usize::from(labels.objects.len() == 2);
        if let [first, second] = &labels.objects[..] {
            assert_ne!(first.kind, second.kind);
        }
    }
    assert!((75..165).contains(&pairs), "{pairs} of 300 show two");
    let one = Emoji::open(&EmojiOptions { objects: Objects::One, ..options(&folder) }).unwrap();
    assert!((0..50).all(|index| one.scene(Split::HeldOut, index).labels().objects.len() == 1));
    let two = Emoji::open(&EmojiOptions { objects: Objects::Two, ..options(&folder) }).unwrap();
    assert!((0..50).all(|index| two.scene(Split::HeldOut, index).labels().objects.len() == 2));
}

#[test]
fn a_tenth_is_held_out_by_name_alone() {
    let names: Vec<String> = (0..200).map(|number| format!("thing-{number}")).collect();
    let triples = names.iter().flat_map(|name| {
        let background = |style, tone| Background { style, tone, phase: [0.0; 2] };
        Style::ALL
            .into_iter()
            .flat_map(move |style| Tone::ALL.map(|tone| triple_held_out(name, &background(style, tone))))
    });
    let triples = triples.filter(|held_out| *held_out).count();
    assert!((280..360).contains(&triples), "{triples} of 3,200");
    let pairs = (0..200).flat_map(|second| (0..second).map(move |first| (first, second)));
    let pairs = pairs.filter(|&(first, second)| {
        assert_eq!(
            pair_held_out(&names[first], &names[second]),
            pair_held_out(&names[second], &names[first])
        );
        pair_held_out(&names[first], &names[second])
    });
    let pairs = pairs.count();
    assert!((1850..2130).contains(&pairs), "{pairs} of 19,900");
}

#[test]
fn the_vocabulary_holds_every_word() {
    let emoji = Emoji::open(&options(&packages())).unwrap();
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let vocabulary: BTreeSet<String> = emoji.vocabulary_captions().flat_map(words).collect();
    for index in 0..300 {
        let scene = emoji.scene(Split::HeldOut, index);
        let unknown: Vec<_> = words(scene.varied_caption(0, index))
            .into_iter()
            .filter(|word| !vocabulary.contains(word))
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn wrong_packages_are_named() {
    let failure = |options: &EmojiOptions| Emoji::open(options).err().unwrap().to_string();
    let folder = packages();
    let group = EmojiOptions { groups: vec!["animals".into()], ..options(&folder) };
    let message = failure(&group);
    assert!(
        message.contains("groups") && message.contains("animals-nature") && message.contains("\"animals\"")
    );
    let few = EmojiOptions { groups: vec!["animals-nature".into()], ..options(&folder) };
    assert!(failure(&few).contains("expected more drawings"), "{}", failure(&few));
    for (name, text, said) in [
        ("emojibase/meta/groups.json", "{}", "groups"),
        ("emojibase/en/data.json", "[{\"group\": 3}]", "label"),
        ("noto/icons.json", "{\"icons\": {\"ice\": {\"body\": \"<rect\"}}}", "icons.ice: expected SVG"),
        ("noto/icons.json", "[", "icons.json"),
    ] {
        let folder = packages();
        fs::write(folder.path().join(name), text).unwrap();
        let message = failure(&options(&folder));
        assert!(message.contains(name) && message.contains(said) && !message.contains('\n'), "{message}");
    }
    let folder = packages();
    fs::remove_file(folder.path().join("noto/icons.json")).unwrap();
    assert!(failure(&options(&folder)).contains("icons.json"));
}
