//! Whole files of every kind that the program reads, made from a fixture's checkpoint. Each case damages one of them.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

/// A fixture: a diffusers folder of random weights.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-a");

/// An ablation's configuration that uses many features.
const GRID: &str = r#"title = "a grid"
seed = 3
steps = 2
guidance_scale = 4.5
rng = "torch"
scheduler = "euler"
negative_prompt = "blurry"
distances = true
vae_tiling = 64
masks = ["fox"]

[prompts]
fox = "a red fox"
moon = { prompt = "a full moon", seed = 7 }

[[grid]]
method = "at-edm"
options = { prune_point = "before_ff", prune_layers = [0] }
each = { recovery = ["similarity", "zero"], tau = [0, 1] }

[[grid]]
method = "tome-c"
options = { ratio = 0.3 }
"#;

/// A smaller configuration. Cases damage its run.
const SMALL: &str = "steps = 1\nmasks = [\"fox\"]\n[prompts]\nfox = \"a red fox\"\nowl = \"an owl\"\n[[grid]]\nmethod = \"at-edm\"\neach = { ratio = [0.3, 0.5] }\n";

const PRUNE: &str = "method = \"at-edm\"\nratio = 0.5\nrecovery = \"bicubic\"\nschedule = \"prune-more\"\ntau = \"30%\"\nlevels = [1, 2]\nprune_layers = [0]\nscorer = \"page-rank\"\nmax_iterations = 4\nepsilon = 1e-4\n";

const MERGE: &str =
    "method = \"tome\"\nratio = 0.4\nmax_downsample = 4\nuse_rand = false\nmerge_attn = true\n";

/// A run that has only the prompts of a file.
const PLAIN: &str = "steps = 1\n[prompts]\nfox = \"a red fox\"\n[[grid]]\nmethod = \"at-edm\"\n";

/// A small file that holds a huge picture.
pub(crate) const BOMB: &str = "bomb.png";

/// Captions in each form that the program reads, by file ending.
pub(crate) const CAPTIONS: [(&str, &str); 5] = [
    (
        "captions.json",
        r#"{"info": {}, "images": [{"id": 1}], "annotations": [{"image_id": 139, "id": 9, "caption": "a fox"}, {"image_id": 139, "id": 3, "caption": "an owl"}, {"image_id": 7, "id": 100, "caption": "a sea"}]}"#,
    ),
    (
        "captions.jsonl",
        "{\"id\": \"a\", \"prompt\": \"a fox\", \"seed\": 1}\n{\"id\": \"b\", \"prompt\": \"an owl\"}\n",
    ),
    ("captions.tsv", "a\ta red fox\nb\tan owl, \"at night\"\n"),
    ("captions.csv", "id,caption\n1,\"a fox, red\"\n2,an owl\n"),
    ("captions.txt", "a red fox\nan owl at night\n\na sea\n"),
];

/// The folder of the whole files.
pub(crate) struct Corpus {
    root: PathBuf,
}

impl Corpus {
    /// The files below a folder that [`Corpus::write`] has made.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// The path of a file or folder of the corpus.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes the whole corpus.
    pub(crate) fn write(root: &Path) -> Self {
        let corpus = Self::at(root);
        let write = |name: &str, content: &[u8]| fs::write(corpus.path(name), content).unwrap();
        copy(Path::new(MODEL), &corpus.path("model"));
        corpus.write_other_forms();
        for (name, content) in CAPTIONS {
            write(name, content.as_bytes());
        }
        for (name, content) in [
            ("grid.toml", GRID),
            ("small.toml", SMALL),
            ("plain.toml", PLAIN),
            ("prune.toml", PRUNE),
            ("merge.toml", MERGE),
        ] {
            write(name, content.as_bytes());
        }
        let text = |name: &str| corpus.path(name).to_str().unwrap().to_string();
        let (model, grid) = (text("model"), text("small.toml"));
        assert!(program(&["ablate", &grid, "--model", &model, "--output", &text("run"), "--quiet"]));
        let made = ["--output", &text("picture.png"), "--save-latents", &text("latents.safetensors")];
        let masks =
            ["--masks-out", &text("masks.safetensors"), "--prune", "at-edm", "--steps", "1", "--quiet"];
        let generate = ["generate", "--model", &model, "--prompt", "a fox"];
        assert!(program(&[&generate[..], &made, &masks].concat()));
        corpus.write_bomb();
        corpus
    }

    /// The same checkpoint in other forms of folders: an index and shards, and files of added tokens.
    fn write_other_forms(&self) {
        let folder = self.path("sharded");
        copy(&self.path("model"), &folder);
        let (whole, shard) =
            ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-00001-of-00001.safetensors");
        let bytes = fs::read(folder.join("unet").join(whole)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let map: Value = file.names().into_iter().map(|name| (name.to_string(), json!(shard))).collect();
        let index = json!({"metadata": {"total_size": bytes.len()}, "weight_map": map});
        fs::rename(folder.join("unet").join(whole), folder.join("unet").join(shard)).unwrap();
        fs::write(folder.join("unet").join(format!("{whole}.index.json")), index.to_string()).unwrap();
        let tokens = folder.join("tokenizer");
        let vocabulary: Value =
            serde_json::from_slice(&fs::read(tokens.join("vocab.json")).unwrap()).unwrap();
        let end = "<|endoftext|>";
        let id = vocabulary[end].clone();
        fs::write(tokens.join("added_tokens.json"), json!({end: id}).to_string()).unwrap();
        let path = tokens.join("tokenizer_config.json");
        let mut settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let flags = json!({"content": end, "lstrip": false, "normalized": true, "rstrip": false, "single_word": false, "special": true});
        settings["added_tokens_decoder"] = json!({id.to_string(): flags});
        fs::write(path, settings.to_string()).unwrap();
    }

    /// A picture of 1.2 GB in a small file.
    fn write_bomb(&self) {
        const SIDE: u32 = 20_000;
        let file = BufWriter::new(fs::File::create(self.path(BOMB)).unwrap());
        let mut encoder = png::Encoder::new(file, SIDE, SIDE);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header().unwrap();
        let mut stream = writer.stream_writer().unwrap();
        let row = vec![0; 3 * SIDE as usize];
        for _ in 0..SIDE {
            std::io::Write::write_all(&mut stream, &row).unwrap();
        }
        stream.finish().unwrap();
    }
}

/// Runs the program in this process. Gives whether it succeeded.
pub(crate) fn program(arguments: &[&str]) -> bool {
    let line = ["atedm"].iter().chain(arguments);
    atedm::run_with(line, ()) == ExitCode::SUCCESS
}

/// Copies a folder with all its files.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The files below a folder, sorted, as paths from there.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}
