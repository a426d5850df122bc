//! `atedm scenes`: writes scenes with captions, masks and labels.

use atedm_training::scenes::{Labels, SceneSource, Shapes, Split};
use serde::Serialize;

use atedm_experiment::files::{NamedFile, OutputDir, Picture, png_bytes};

use crate::args::ScenesArgs;
use crate::failure::{Failure, Outcome};
use crate::tell;

/// A line of `labels.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    #[serde(flatten)]
    labels: Labels,
}

/// Writes pictures, masks, captions and labels.
pub(crate) fn run(args: &ScenesArgs) -> Outcome {
    let dir = OutputDir::prepare(&args.out)?.require_empty()?;
    let split = Split::from(args.split);
    let files = files(&*source(args)?, args)?;
    dir.write(&files)?;
    tell::line(format_args!(
        "wrote {}: {} composed scenes of {} pixels, {} of seed {}",
        dir.path().display(),
        args.count,
        args.size,
        split.name(),
        args.seed
    ));
    Ok(())
}

/// The requested stream of scenes.
fn source(args: &ScenesArgs) -> Outcome<Box<dyn SceneSource>> {
    let objects = args.objects.into();
    #[cfg(feature = "emoji")]
    if let Some(folder) = &args.emoji {
        use atedm_training::emoji::{Emoji, EmojiOptions};

        let options = EmojiOptions { seed: args.seed, objects, ..EmojiOptions::new(folder) };
        return Ok(Box::new(Emoji::open(&options).map_err(Failure::run)?));
    }
    Ok(Box::new(Shapes { seed: args.seed, objects }))
}

fn files(source: &dyn SceneSource, args: &ScenesArgs) -> Outcome<Vec<NamedFile>> {
    let mut files: Vec<NamedFile> = Vec::with_capacity(2 * args.count + 3);
    let (mut captions, mut prompts, mut lines) = (String::new(), String::new(), String::new());
    for index in 0..args.count {
        let scene = source.scene(args.split.into(), index as u64);
        let (id, caption) = (format!("{index:05}"), scene.caption());
        files.push((format!("{id}.png"), png(args.size, scene.render(args.size).rgb)?));
        let mask = scene.mask(args.size).into_iter().flat_map(|share| [share; 3]).collect();
        files.push((format!("masks/{id}.png"), png(args.size, mask)?));
        captions += &format!("{caption}\n");
        prompts += &format!("{id}\t{caption}\n");
        let line = Line { id: &id, labels: scene.labels() };
        lines += &serde_json::to_string(&line).map_err(Failure::run)?;
        lines.push('\n');
    }
    let texts = [("captions.txt", captions), ("prompts.tsv", prompts), ("labels.jsonl", lines)];
    files.extend(texts.map(|(name, text)| (name.to_owned(), text.into_bytes())));
    Ok(files)
}

fn png(side: usize, rgb: Vec<u8>) -> Outcome<Vec<u8>> {
    png_bytes(&Picture { width: side, height: side, rgb }, &[])
}
