//! `atedm scenes`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use atedm_training::scenes::{Scene, Split};
use common::{fail, names, read_png, succeed};

#[test]
fn pictures_masks_captions_and_labels_agree() {
    let work = tempfile::tempdir().unwrap();
    let flags =
        ["scenes", "--out", "s", "--split", "held-out", "--count", "12", "--seed", "3", "--size", "48"];
    let said = succeed(work.path(), &flags);
    assert!(said.contains("wrote s: 12 composed scenes of 48 pixels, held-out of seed 3"), "{said}");
    let out = work.path().join("s");
    let pictures: Vec<String> = (0..12).map(|index| format!("{index:05}.png")).collect();
    let mut expected = pictures.clone();
    expected.extend(["captions.txt", "labels.jsonl", "masks", "prompts.tsv"].map(str::to_owned));
    assert_eq!(names(&out), expected);
    assert_eq!(names(&out.join("masks")), pictures);

    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let (captions, prompts, labels) = (read("captions.txt"), read("prompts.tsv"), read("labels.jsonl"));
    assert_eq!((captions.lines().count(), prompts.lines().count(), labels.lines().count()), (12, 12, 12));
    let lines = captions.lines().zip(prompts.lines()).zip(labels.lines());
    for (index, ((caption, prompt), labels)) in lines.enumerate() {
        let scene = Scene::sample(3, Split::HeldOut, index as u64);
        assert_eq!((caption, prompt), (&*scene.caption(), &*format!("{index:05}\t{caption}")));
        let labels: serde_json::Value = serde_json::from_str(labels).unwrap();
        assert_eq!(labels["caption"], caption);
        assert_eq!(labels["id"], format!("{index:05}"));
        let objects = labels["objects"].as_array().unwrap();
        assert_eq!(objects.len(), scene.objects.len());
        for (labels, object) in objects.iter().zip(&scene.objects) {
            assert_eq!(labels["shape"], object.shape.name());
            assert_eq!(labels["colour"], object.colour.name());
            assert_eq!(labels["size"], object.size.name());
            assert_eq!(labels["position"], object.position.name());
            assert!((labels["centre"][0].as_f64().unwrap() - f64::from(object.centre[0])).abs() < 1e-6);
        }
        assert_eq!(labels["relation"].as_str(), scene.relation.map(|relation| relation.name()));
        assert_eq!(labels["background"]["style"], scene.background.style.name());
        let (picture, mask) =
            (read_png(&out.join(&pictures[index])), read_png(&out.join("masks").join(&pictures[index])));
        assert_eq!((picture.size, mask.size), ((48, 48), (48, 48)));
        assert_eq!(picture.pixels, scene.render(48).rgb);
        let shares: Vec<u8> = mask.pixels.chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(shares, scene.mask(48));
    }
}

#[test]
fn a_seed_gives_the_same_bytes_and_a_longer_run_begins_with_a_shorter() {
    let work = tempfile::tempdir().unwrap();
    succeed(work.path(), &["scenes", "--out", "one", "--count", "5", "--objects", "one"]);
    succeed(work.path(), &["scenes", "--out", "two", "--count", "9", "--objects", "one"]);
    let labels = |folder: &str| fs::read_to_string(work.path().join(folder).join("labels.jsonl")).unwrap();
    assert!(labels("two").starts_with(&labels("one")));
    assert!(labels("two").lines().all(|line| line.contains("\"relation\":null")));
    succeed(work.path(), &["scenes", "--out", "pairs", "--count", "9", "--objects", "two"]);
    assert!(labels("pairs").lines().all(|line| !line.contains("\"relation\":null")));
    for index in 0..5 {
        let bytes =
            |folder: &str| fs::read(work.path().join(folder).join(format!("{index:05}.png"))).unwrap();
        assert_eq!(bytes("one"), bytes("two"));
    }
}

#[test]
fn wrong_inputs_are_named_and_leave_nothing() {
    let work = tempfile::tempdir().unwrap();
    for (flags, named) in [
        (&["--out", "s", "--count", "0"][..], "--count"),
        (&["--out", "s", "--count", "100001"], "from 1 to 100000"),
        (&["--out", "s", "--count", "-3"], "--count"),
        (&["--out", "s", "--size", "8"], "from 16 to 2048"),
        (&["--out", "s", "--seed", "x"], "--seed"),
        (&["--out", "s", "--split", "test"], "--split"),
        (&["--count", "3"], "--out"),
    ] {
        let said = fail(work.path(), &[&["scenes"], flags].concat(), 2);
        assert!(said.contains(named), "{said}");
    }
    assert!(names(work.path()).is_empty());
    fs::create_dir(work.path().join("full")).unwrap();
    fs::write(work.path().join("full/own.txt"), "mine").unwrap();
    let said = fail(work.path(), &["scenes", "--out", "full"], 1);
    assert!(said.contains("full") && said.contains("empty folder"), "{said}");
    assert_eq!(names(&work.path().join("full")), ["own.txt"]);
    let said = fail(work.path(), &["scenes", "--out", "full/own.txt"], 1);
    assert!(said.contains("own.txt"), "{said}");
}

#[cfg(feature = "emoji")]
#[test]
fn emoji_are_composed_in_the_same_folder() {
    let work = tempfile::tempdir().unwrap();
    common::emoji_packages(&work.path().join("packages"));
    let flags = ["scenes", "--emoji", "packages", "--out", "e", "--count", "6", "--size", "128"];
    succeed(work.path(), &flags);
    let out = work.path().join("e");
    let captions = fs::read_to_string(out.join("captions.txt")).unwrap();
    assert!(captions.lines().count() == 6 && captions.lines().all(|caption| caption.contains(" brick ")));
    let labels = fs::read_to_string(out.join("labels.jsonl")).unwrap();
    assert!(labels.lines().all(|line| line.contains("-brick\"")));
    assert_eq!(read_png(&out.join("masks/00005.png")).size, (128, 128));
    let said = fail(work.path(), &["scenes", "--emoji", "nowhere", "--out", "f"], 1);
    assert!(said.contains("icons.json"), "{said}");
    assert!(!work.path().join("f").exists());
}
