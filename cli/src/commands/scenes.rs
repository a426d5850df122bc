//! `atedm scenes`.

use atedm_sdxl::train::scenes::{Object, Scene, Split};
use serde::Serialize;

use crate::args::ScenesArgs;
use crate::failure::{Failure, Outcome};
use crate::files::{NamedFile, OutputDir, Picture, png_bytes};

/// A line of `labels.jsonl`.
#[derive(Serialize)]
struct Labels<'a> {
    id: &'a str,
    caption: &'a str,
    objects: Vec<ObjectLabels>,
    /// How the first object stands to the second.
    relation: Option<&'static str>,
    background: BackgroundLabels,
}

#[derive(Serialize)]
struct ObjectLabels {
    shape: &'static str,
    colour: &'static str,
    size: &'static str,
    position: &'static str,
    /// Across and down, in shares of the side.
    centre: [f32; 2],
    /// In shares of the side.
    radius: f32,
}

#[derive(Serialize)]
struct BackgroundLabels {
    style: &'static str,
    colour: &'static str,
}

/// Writes pictures, masks, captions and labels.
pub(crate) fn run(args: &ScenesArgs) -> Outcome {
    let dir = OutputDir::prepare(&args.out)?.require_empty()?;
    let split = Split::from(args.split);
    let sample = if args.single { Scene::sample_single } else { Scene::sample };
    let mut files: Vec<NamedFile> = Vec::with_capacity(2 * args.count + 3);
    let (mut captions, mut prompts, mut labels) = (String::new(), String::new(), String::new());
    for index in 0..args.count {
        let scene = sample(args.seed, split, index as u64);
        let (id, caption) = (format!("{index:05}"), scene.caption());
        files.push((format!("{id}.png"), png(args.size, scene.render(args.size).rgb)?));
        let mask = scene.mask(args.size).into_iter().flat_map(|share| [share; 3]).collect();
        files.push((format!("masks/{id}.png"), png(args.size, mask)?));
        captions += &format!("{caption}\n");
        prompts += &format!("{id}\t{caption}\n");
        labels += &serde_json::to_string(&labels_of(&scene, &id, &caption)).map_err(Failure::run)?;
        labels.push('\n');
    }
    let texts = [("captions.txt", captions), ("prompts.tsv", prompts), ("labels.jsonl", labels)];
    files.extend(texts.map(|(name, text)| (name.to_owned(), text.into_bytes())));
    dir.write(&files)?;
    eprintln!(
        "wrote {}: {} composed scenes of {} pixels, {} of seed {}",
        dir.path().display(),
        args.count,
        args.size,
        split.name(),
        args.seed
    );
    Ok(())
}

fn png(side: usize, rgb: Vec<u8>) -> Outcome<Vec<u8>> {
    png_bytes(&Picture { width: side, height: side, rgb }, &[])
}

fn labels_of<'a>(scene: &Scene, id: &'a str, caption: &'a str) -> Labels<'a> {
    let object = |object: &Object| ObjectLabels {
        shape: object.shape.name(),
        colour: object.colour.name(),
        size: object.size.name(),
        position: object.position.name(),
        centre: object.centre,
        radius: object.radius,
    };
    let background =
        BackgroundLabels { style: scene.background.style.name(), colour: scene.background.tone.name() };
    let relation = scene.relation.map(|relation| relation.name());
    Labels { id, caption, objects: scene.objects.iter().map(object).collect(), relation, background }
}
