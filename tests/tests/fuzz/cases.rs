//! One case: a damaged file, and the program that reads it.

use std::fs;
use std::path::Path;

use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, Result};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, Part};
use atedm_sdxl::prompt::SyntaxRegistry;
use atedm_sdxl::schedulers::SamplerRegistry;

use super::corpus::{BOMB, CAPTIONS, Corpus, copy, files, program};
use super::draw::{Draw, text};

/// What is damaged, and which program reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Any file of a checkpoint, read by the library.
    Checkpoint,
    /// A configuration of a checkpoint, for `flops` or `inspect`.
    Shown,
    /// Any file of a checkpoint, for a whole run.
    Run,
    /// An ablation's configuration.
    Grid,
    /// A file of pruning options.
    Options,
    /// Captions of `eval export`.
    Captions,
    /// Prompts of an ablation.
    Prompts,
    /// Any file of a run's folder, for `report`, `merge` or `--resume`.
    Folder,
    /// `--masks-in`.
    Masks,
    /// `--latents`.
    Latents,
    /// `--init-image`.
    Picture,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Checkpoint,
        Self::Shown,
        Self::Run,
        Self::Grid,
        Self::Options,
        Self::Captions,
        Self::Prompts,
        Self::Folder,
        Self::Masks,
        Self::Latents,
        Self::Picture,
    ];

    /// Of every 40 cases, each kind has two. The library's reader is quick and has all others.
    fn of(number: u64) -> Self {
        let place = (number % 40) as usize;
        if place < 2 * Self::ALL.len() { Self::ALL[place % Self::ALL.len()] } else { Self::Checkpoint }
    }
}

/// Gives a file's damaged content from its name and its content. `None` removes the file.
pub(crate) type Damage = fn(&mut Draw, &str, &[u8]) -> Option<Vec<u8>>;

/// A case, prepared in its own folder.
pub(crate) struct Case {
    pub(crate) kind: Kind,
    /// The file that was damaged.
    pub(crate) damaged: String,
    /// The program's command line. For the library, it is the checkpoint's folder.
    arguments: Vec<String>,
}

/// Where a case is prepared.
struct Desk<'a> {
    corpus: &'a Corpus,
    folder: &'a Path,
    draw: Draw,
    damage: Damage,
}

impl Desk<'_> {
    /// The path of a whole file.
    fn whole(&self, name: &str) -> String {
        place(&self.corpus.path(name))
    }

    /// The path of something that the case may write.
    fn output(&self, ending: &str) -> String {
        format!("{}{ending}", place(&self.folder.join("output")))
    }

    /// A copy of one of these files, damaged: its name and path.
    fn file(&mut self, names: &[&str]) -> (String, String) {
        let name = *self.draw.pick(names);
        let path = self.folder.join("input").join(name);
        let content = fs::read(self.corpus.path(name)).unwrap();
        let content = (self.damage)(&mut self.draw, name, &content).unwrap_or_default();
        fs::write(&path, content).unwrap();
        (name.to_string(), place(&path))
    }

    /// Copies a folder and damages or removes one of its files: the given one, or any. Gives the file's name and the
    /// folder's path.
    fn folder(&mut self, name: &str, file: Option<&str>) -> (String, String) {
        let copied = self.folder.join("input").join(name);
        copy(&self.corpus.path(name), &copied);
        let file = file.map_or_else(|| self.draw.pick(&files(&copied)).clone(), str::to_string);
        let path = copied.join(&file);
        match (self.damage)(&mut self.draw, &file, &fs::read(&path).unwrap()) {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        (file, place(&copied))
    }

    /// A checkpoint in one of its possible forms.
    fn checkpoint(&mut self, file: Option<&str>) -> (String, String) {
        let form = *self.draw.pick(&["model", "sharded"]);
        self.folder(form, file)
    }

    /// `generate` on the whole model, one step.
    fn generate(&self, flags: &[&str]) -> Vec<String> {
        let (model, picture) = (self.whole("model"), self.output(".png"));
        let first = ["generate", "--model", &model, "--prompt", "a fox", "--steps", "1", "--quiet"];
        line(&[&first[..], &["--output", &picture], flags].concat())
    }

    /// Prepares the damaged file and the command of a kind.
    fn case(&mut self, kind: Kind) -> (String, Vec<String>) {
        let (model, small, plain) = (self.whole("model"), self.whole("small.toml"), self.whole("plain.toml"));
        let output = self.output("");
        match kind {
            Kind::Checkpoint => {
                let (name, root) = self.checkpoint(None);
                (name, line(&[&root]))
            }
            Kind::Shown => {
                let (name, root) = self.checkpoint(Some("unet/config.json"));
                let command = *self.draw.pick(&["inspect", "flops"]);
                (name, line(&[command, "--model", &root, "--prune", "at-edm"]))
            }
            Kind::Run => {
                let (name, root) = self.checkpoint(None);
                let prompt = format!("--prompt={}", self.draw.of(text()).replace('\0', "0"));
                let flags = ["--model", &root, "--steps", "1", "--quiet", "--output", &self.output(".png")];
                (name, line(&[&["generate", &prompt][..], &flags].concat()))
            }
            Kind::Grid => {
                let (name, path) = self.file(&["grid.toml", "small.toml", "plain.toml"]);
                (name, line(&["ablate", &path, "--plan", "--model", &model]))
            }
            Kind::Options => {
                let (name, path) = self.file(&["prune.toml", "merge.toml"]);
                (name, line(&["flops", "--prune-config", &path]))
            }
            Kind::Captions => {
                let (name, path) = self.file(&CAPTIONS.map(|(name, _)| name));
                let flags =
                    ["--model", &model, "--steps", "1", "--limit", "1", "--quiet", "--output", &output];
                (name, line(&[&["eval", "export", "--captions", &path][..], &flags].concat()))
            }
            Kind::Prompts => {
                let (name, path) = self.file(&["captions.jsonl", "captions.tsv"]);
                (name, line(&["ablate", &plain, "--prompts", &path, "--plan", "--model", &model]))
            }
            Kind::Folder => {
                let (name, run) = self.folder("run", None);
                let page = self.output(".html");
                let command = match self.draw.below(3) {
                    0 => line(&["report", &run, "--output", &page, "--quiet"]),
                    1 => line(&["ablate", "merge", &run, "--output", &output]),
                    _ => {
                        line(&["ablate", &small, "--model", &model, "--output", &run, "--resume", "--quiet"])
                    }
                };
                (name, command)
            }
            Kind::Masks => {
                let (name, path) = self.file(&["masks.safetensors"]);
                (name, self.generate(&["--prune", "at-edm", "--masks-in", &path]))
            }
            Kind::Latents => {
                let (name, path) = self.file(&["latents.safetensors"]);
                (name, self.generate(&["--latents", &path]))
            }
            Kind::Picture => {
                let bomb = self.draw.one_in(30);
                let (name, path) =
                    if bomb { (BOMB.into(), self.whole(BOMB)) } else { self.file(&["picture.png"]) };
                (name, self.generate(&["--strength", "1", "--init-image", &path]))
            }
        }
    }
}

impl Case {
    /// Writes the files of case `number` below `folder`, one of them damaged.
    pub(crate) fn prepare(number: u64, corpus: &Corpus, folder: &Path, damage: Damage) -> Self {
        let kind = Kind::of(number);
        fs::create_dir_all(folder.join("input")).unwrap();
        let (damaged, arguments) = Desk { corpus, folder, draw: Draw::new(number), damage }.case(kind);
        Self { kind, damaged, arguments }
    }

    /// Reads the damaged file. Gives whether it was accepted.
    pub(crate) fn run(&self, number: u64) -> bool {
        match (self.kind, self.arguments.as_slice()) {
            (Kind::Checkpoint, [root]) => read(Path::new(root), &mut Draw::new(number)).is_ok(),
            (_, arguments) => program(&arguments.iter().map(String::as_str).collect::<Vec<_>>()),
        }
    }

    /// Whether a failure is reported on the standard error stream.
    pub(crate) fn is_told(&self) -> bool {
        self.kind != Kind::Checkpoint
    }

    /// The command as a person would type it.
    pub(crate) fn words(&self) -> String {
        format!("{:?}, {} damaged: {:.400}", self.kind, self.damaged, self.arguments.join(" "))
    }
}

/// Reads everything of a checkpoint that can be read without a run.
fn read(root: &Path, draw: &mut Draw) -> Result<()> {
    let checkpoint = Checkpoint::open(root, OpenOptions::default())?;
    for part in Part::ALL {
        checkpoint.weights::<NdTensor>(part, DType::F32, &NdDevice)?;
    }
    SamplerRegistry::<NdTensor>::with_builtins().build(checkpoint.scheduler(), None, 1 + draw.below(50))?;
    checkpoint.unet().blocks(16, 16);
    checkpoint.unet().parameters();
    let (tokenizers, syntaxes) = (checkpoint.tokenizers()?, SyntaxRegistry::with_builtins());
    for tokenizer in &tokenizers {
        for _ in 0..4 {
            let text = draw.of(text());
            let ids = tokenizer.encode(&text)?.ids;
            assert_eq!(ids.len(), tokenizer.length());
            for name in syntaxes.names() {
                let Ok(reading) = syntaxes.get(name)?.read(&text, tokenizer) else { continue };
                assert!(reading.chunks.iter().all(|chunk| chunk.ids.len() == tokenizer.length()));
            }
        }
    }
    Ok(())
}

fn line(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_string()).collect()
}

fn place(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}
