use std::collections::{BTreeSet, HashSet};

use super::caption::vocabulary_captions;
use super::render::{BOTTOM, DARKER, TOP, tinted};
use super::*;

const SEED: u64 = 11;

fn stream(split: Split, count: u64) -> impl Iterator<Item = Scene> {
    (0..count).map(move |index| Scene::sample(SEED, split, index))
}

fn words(captions: impl Iterator<Item = String>) -> BTreeSet<String> {
    captions.flat_map(|caption| caption.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn kinds() -> Vec<(Shape, Colour)> {
    Shape::ALL.iter().flat_map(|&shape| Colour::ALL.map(|colour| (shape, colour))).collect()
}

/// One step of FNV-1a.
fn hashed(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn a_scene_is_a_function_of_seed_split_and_index() {
    let backwards: Vec<_> = (0..50).rev().map(|index| Scene::sample(3, Split::Train, index)).collect();
    for (index, scene) in backwards.iter().rev().enumerate() {
        assert_eq!(*scene, Scene::sample(3, Split::Train, index as u64));
    }
    let different: HashSet<_> = backwards.iter().map(|scene| hashed(&scene.render(32).rgb)).collect();
    assert_eq!(different.len(), 50);
    assert_ne!(Scene::sample(3, Split::Train, 0), Scene::sample(4, Split::Train, 0));
    assert_ne!(Scene::sample(3, Split::Train, 0), Scene::sample_of(Objects::One, 3, Split::Train, 0));
    let last = u64::MAX;
    assert_eq!(Scene::sample(last, Split::HeldOut, last), Scene::sample(last, Split::HeldOut, last));
}

#[test]
fn the_stream_is_fixed() {
    // Trained weights and results were made with these scenes, so they must not change.
    let captions = [
        "a large blue star above a large red ring on a gradient gray background",
        "a small red cross at the top on a plain pink background",
        "a small green cross on the left on a dotted pink background",
    ];
    let mut bytes = Vec::new();
    for (index, caption) in captions.into_iter().enumerate() {
        assert_eq!(Scene::sample(7, Split::Train, index as u64).caption(), caption);
    }
    for index in 0..200 {
        let scene = Scene::sample(7, Split::Train, index);
        bytes.extend(scene.render(64).rgb);
        bytes.extend(scene.mask(64));
        bytes.extend(scene.varied_caption(7, index).into_bytes());
    }
    assert_eq!(hashed(&bytes), 0xd054_f1b8_9031_66bf);
}

#[test]
fn training_shows_no_held_out_combination_and_evaluation_always_one() {
    let kind = |object: &Object| (object.shape, object.colour);
    let shows = |scene: &Scene| {
        let triples = scene
            .objects
            .iter()
            .filter(|object| held_out::triple(object.shape, object.colour, scene.background.style));
        let pair =
            scene.objects.len() == 2 && held_out::pair(kind(&scene.objects[0]), kind(&scene.objects[1]));
        triples.count() + usize::from(pair)
    };
    assert!(stream(Split::Train, 5000).all(|scene| shows(&scene) == 0));
    assert!(stream(Split::HeldOut, 5000).all(|scene| shows(&scene) >= 1));
    for index in 0..2000 {
        let train = Scene::sample_of(Objects::One, SEED, Split::Train, index);
        let held_out = Scene::sample_of(Objects::One, SEED, Split::HeldOut, index);
        assert_eq!((train.objects.len(), held_out.objects.len()), (1, 1));
        assert_eq!((shows(&train), shows(&held_out)), (0, 1));
    }
}

#[test]
fn a_tenth_is_held_out_evenly() {
    let triples: Vec<_> = kinds()
        .into_iter()
        .flat_map(|(shape, colour)| Style::ALL.map(|style| (shape, colour, style)))
        .filter(|&(shape, colour, style)| held_out::triple(shape, colour, style))
        .collect();
    assert_eq!(triples.len(), 22); // of 192
    assert_eq!(triples.iter().map(|triple| triple.0).collect::<HashSet<_>>().len(), Shape::ALL.len());
    assert_eq!(triples.iter().map(|triple| triple.1).collect::<HashSet<_>>().len(), Colour::ALL.len());
    assert_eq!(triples.iter().map(|triple| triple.2).collect::<HashSet<_>>().len(), Style::ALL.len());
    // Training shows each coloured shape before at least three styles.
    assert_eq!(triples.iter().map(|triple| (triple.0, triple.1)).collect::<HashSet<_>>().len(), 22);

    let kinds = kinds();
    let pairs = (0..kinds.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    let held_out = pairs.filter(|&(first, second)| {
        let (first, second) = (kinds[first], kinds[second]);
        assert_eq!(held_out::pair(first, second), held_out::pair(second, first));
        held_out::pair(first, second)
    });
    assert_eq!(held_out.count(), 121); // of 1,128
}

#[test]
fn both_splits_mix_single_objects_and_pairs() {
    for split in [Split::Train, Split::HeldOut] {
        let singles = stream(split, 5000).filter(|scene| scene.objects.len() == 1).count();
        assert!((2850..3150).contains(&singles), "{singles} of 5,000 {}", split.name());
        assert!(stream(split, 5000).all(|scene| (scene.objects.len() == 2) == scene.relation.is_some()));
    }
}

#[test]
fn every_word_is_trained() {
    let train = words(stream(Split::Train, 3000).map(|scene| scene.caption()));
    let held_out = words(stream(Split::HeldOut, 3000).map(|scene| scene.caption()));
    assert_eq!(train, held_out);
    for name in Shape::ALL.map(Shape::name).into_iter().chain(Colour::ALL.map(Colour::name)) {
        assert!(train.contains(name), "{name}");
    }
    let varied =
        words((0..3000).map(|index| Scene::sample(SEED, Split::Train, index).varied_caption(1, index)));
    assert_eq!(words(vocabulary_captions()), varied);
    assert!(varied.contains("an") && varied.is_superset(&train));
}

#[test]
fn no_caption_is_longer_than_twenty_words() {
    let longest = stream(Split::Train, 2000).chain(stream(Split::HeldOut, 2000)).map(|scene| {
        let mut longest = 0;
        for &style in &Style::ALL {
            for &tone in &Tone::ALL {
                for &size in &Size::ALL {
                    let mut scene = scene.clone();
                    scene.background = Background { style, tone, phase: [0.0; 2] };
                    scene.objects.iter_mut().for_each(|object| object.size = size);
                    longest = longest.max(scene.caption().split(' ').count());
                }
            }
        }
        longest
    });
    // The choices of each slot but position ("in the center") and relation ("left of") are single words.
    let single_words = Shape::ALL.map(Shape::name).into_iter().chain(Colour::ALL.map(Colour::name));
    let single_words = single_words.chain(Size::ALL.map(Size::name)).chain(Style::ALL.map(Style::name));
    assert!(single_words.chain(Tone::ALL.map(Tone::name)).all(|word| !word.contains(' ')));
    assert_eq!(longest.max(), Some(15));
}

#[test]
fn captions_follow_the_grammar() {
    let object = |shape, colour, size, position| Object {
        shape,
        colour,
        size,
        position,
        centre: [0.5; 2],
        radius: 0.1,
    };
    let background = Background { style: Style::Striped, tone: Tone::Pink, phase: [0.0; 2] };
    let mut scene = Scene {
        objects: vec![object(Shape::Circle, Colour::Orange, Size::Large, Position::Left)],
        relation: None,
        background,
    };
    assert_eq!(scene.caption(), "a large orange circle on the left on a striped pink background");
    let varied: BTreeSet<_> = (0..100).map(|index| scene.varied_caption(5, index)).collect();
    let expected = [
        "a large orange circle on the left",
        "a large orange circle on the left on a striped pink background",
        "an orange circle on the left",
        "an orange circle on the left on a striped pink background",
    ];
    assert_eq!(varied.into_iter().collect::<Vec<_>>(), expected);

    scene.objects = vec![
        object(Shape::Circle, Colour::Red, Size::Small, Position::Top),
        object(Shape::Square, Colour::Blue, Size::Large, Position::Bottom),
    ];
    scene.relation = Some(Relation::Above);
    let caption = "a small red circle above a large blue square on a striped pink background";
    assert_eq!(scene.caption(), caption);
}

#[test]
fn seven_of_ten_training_captions_say_everything() {
    let full = (0..4000).filter(|&index| {
        let scene = Scene::sample(SEED, Split::Train, index);
        scene.varied_caption(2, index) == scene.caption()
    });
    let full = full.count();
    assert!((2680..2920).contains(&full), "{full} of 4,000");
}

#[test]
fn single_objects_stand_where_the_caption_says() {
    for index in 0..4000 {
        let scene = Scene::sample_of(Objects::One, SEED, Split::Train, index);
        let object = scene.objects[0];
        let [across, down] = object.centre.map(|share| (share - 0.5) * 64.0);
        let expected = match (across, down) {
            _ if across.abs() <= 2.0 && down.abs() <= 2.0 => Position::Center,
            _ if across.abs() > down.abs() && across < 0.0 => Position::Left,
            _ if across.abs() > down.abs() => Position::Right,
            _ if down < 0.0 => Position::Top,
            _ => Position::Bottom,
        };
        assert_eq!(object.position, expected);
        let clear = across.abs().max(down.abs());
        assert!(object.position == Position::Center || clear >= 13.0, "{clear} pixels off the centre");
    }
}

#[test]
fn two_objects_stand_in_the_halves_of_their_relation() {
    for scene in stream(Split::Train, 3000).filter(|scene| scene.objects.len() == 2) {
        let [first, second] = [scene.objects[0], scene.objects[1]];
        assert_ne!((first.shape, first.colour), (second.shape, second.colour));
        let relation = scene.relation.unwrap();
        assert_eq!([first.position, second.position], relation.positions());
        let (axis, before, after) = match relation {
            Relation::LeftOf => (0, first, second),
            Relation::RightOf => (0, second, first),
            Relation::Above => (1, first, second),
            Relation::Below => (1, second, first),
        };
        assert!(before.centre[axis] + before.radius < 0.5 && 0.5 < after.centre[axis] - after.radius);
        let beside = (first.centre[1 - axis] - second.centre[1 - axis]).abs();
        assert!(beside < 0.2 && after.centre[axis] - before.centre[axis] > 0.25);
    }
}

#[test]
fn objects_are_whole_and_their_sizes_apart() {
    for scene in stream(Split::Train, 3000) {
        for object in &scene.objects {
            let radius = object.radius * 64.0;
            let range = match object.size {
                Size::Small => 7.9..10.1,
                Size::Large => 12.9..16.1,
            };
            assert!(range.contains(&radius), "{radius} of a {} object", object.size.name());
            for centre in object.centre {
                assert!(centre - object.radius > 0.0 && centre + object.radius < 1.0);
            }
        }
    }
}

#[test]
fn the_mask_is_the_share_of_objects_in_each_pixel() {
    for scene in stream(Split::Train, 300) {
        let side = 48;
        let (picture, mask) = (scene.render(side), scene.mask(side));
        let bare = Scene { objects: Vec::new(), ..scene.clone() }.render(side);
        let colours: Vec<_> = scene.objects.iter().map(|object| object.colour.rgb()).collect();
        for (place, &share) in mask.iter().enumerate() {
            let pixel = &picture.rgb[place * 3..place * 3 + 3];
            let behind = &bare.rgb[place * 3..place * 3 + 3];
            match share {
                0 => assert_eq!(pixel, behind),
                u8::MAX => assert!(colours.iter().any(|colour| colour == pixel)),
                _ => {
                    let nearest = colours.iter().map(|colour| {
                        let off = |which: usize| {
                            let share = f32::from(share) / 255.0;
                            let both =
                                f32::from(behind[which]) * (1.0 - share) + f32::from(colour[which]) * share;
                            (f32::from(pixel[which]) - both).abs()
                        };
                        off(0).max(off(1)).max(off(2))
                    });
                    assert!(nearest.fold(f32::MAX, f32::min) < 2.0);
                }
            }
        }
    }
}

#[test]
fn masks_have_the_areas_of_the_shapes() {
    let background = Background { style: Style::Plain, tone: Tone::Gray, phase: [0.0; 2] };
    for (shape, area) in [
        (Shape::Circle, std::f64::consts::PI),
        (Shape::Square, 4.0 * 0.88 * 0.88),
        (Shape::Triangle, 1.8),
        (Shape::Star, 10.0 * 0.5 * 0.45 * 0.587_785),
        (Shape::Ring, std::f64::consts::PI * (1.0 - 0.55 * 0.55)),
        (Shape::Cross, 4.0 * 0.32 * (2.0 - 0.32)),
    ] {
        let (colour, size, position) = (Colour::Red, Size::Large, Position::Center);
        let object = Object { shape, colour, size, position, centre: [0.5; 2], radius: 0.4 };
        let scene = Scene { objects: vec![object], relation: None, background };
        let covered: f64 = scene.mask(200).iter().map(|&share| f64::from(share) / 255.0).sum();
        let covered = covered / (200.0 * 0.4) / (200.0 * 0.4);
        assert!((covered - area).abs() < 0.01, "{}: {covered}, not {area}", shape.name());
    }
}

#[test]
fn objects_stand_out_from_each_tint_of_each_background() {
    let distance = |one: [u8; 3], other: [u8; 3]| {
        let squared = |which: usize| (f32::from(one[which]) - f32::from(other[which])).powi(2);
        (squared(0) + squared(1) + squared(2)).sqrt()
    };
    for colour in Colour::ALL {
        for tone in Tone::ALL {
            for tint in [1.0, DARKER, TOP, BOTTOM] {
                let apart = distance(colour.rgb(), tinted(tone.rgb(), tint));
                assert!(apart > 80.0, "{} on {}: {apart}", colour.name(), tone.name());
            }
        }
        for other in Colour::ALL {
            assert!(colour == other || distance(colour.rgb(), other.rgb()) > 95.0);
        }
    }
}

#[test]
fn any_side_can_be_drawn() {
    for side in [0, 1, 5, 64, 131] {
        let scene = Scene::sample(SEED, Split::Train, 9);
        assert_eq!(scene.render(side).rgb.len(), side * side * 3);
        assert_eq!(scene.mask(side).len(), side * side);
    }
}

#[test]
fn signed_pictures_are_planar() {
    let picture = Picture { side: 2, rgb: vec![0, 255, 51, 255, 0, 51, 0, 0, 51, 0, 0, 51] };
    let signed = picture.to_signed();
    assert_eq!(signed[..4], [-1.0, 1.0, -1.0, -1.0]);
    assert_eq!(signed[4..8], [1.0, -1.0, -1.0, -1.0]);
    assert!(signed[8..].iter().all(|value| (value + 0.6).abs() < 1e-6));
}

#[test]
fn places_and_names_agree() {
    let distinct = |names: &[&str]| names.iter().collect::<HashSet<_>>().len() == names.len();
    assert!(distinct(&Shape::ALL.map(Shape::name)) && distinct(&Colour::ALL.map(Colour::name)));
    assert!(distinct(&Position::ALL.map(Position::name)) && distinct(&Relation::ALL.map(Relation::name)));
    assert!(Shape::ALL.iter().enumerate().all(|(place, shape)| shape.index() == place));
    assert!(Colour::ALL.iter().enumerate().all(|(place, colour)| colour.index() == place));
    assert!(Position::ALL.iter().enumerate().all(|(place, position)| position.index() == place));
    assert!(Size::ALL.iter().enumerate().all(|(place, size)| size.index() == place));
    assert!(Style::ALL.iter().enumerate().all(|(place, style)| style.index() == place));
    assert!(Tone::ALL.iter().enumerate().all(|(place, tone)| tone.index() == place));
}

#[test]
fn the_source_gives_the_same_scenes() {
    let source: Box<dyn SceneSource> = Box::new(Shapes { seed: SEED, objects: Objects::OneOrTwo });
    for index in 0..20 {
        let (composed, scene) = (source.scene(Split::Train, index), Scene::sample(SEED, Split::Train, index));
        assert_eq!(composed.caption(), scene.caption());
        assert_eq!(composed.varied_caption(4, index), scene.varied_caption(4, index));
        assert_eq!((composed.render(24), composed.mask(24)), (scene.render(24), scene.mask(24)));
        let labels = composed.labels();
        assert_eq!((labels.caption, labels.objects.len()), (scene.caption(), scene.objects.len()));
        let first = &scene.objects[0];
        let kind = Kind::Shape { shape: first.shape.name(), colour: first.colour.name() };
        assert_eq!((&labels.objects[0].kind, labels.objects[0].centre), (&kind, first.centre));
    }
    let singles = Shapes { seed: SEED, objects: Objects::One };
    assert!((0..50).all(|index| singles.scene(Split::HeldOut, index).labels().objects.len() == 1));
    let pairs = Shapes { seed: SEED, objects: Objects::Two };
    assert!((0..50).all(|index| pairs.scene(Split::HeldOut, index).labels().objects.len() == 2));
    assert_eq!(words(source.vocabulary_captions()), words(vocabulary_captions()));
}
