//! Tests the arithmetic against plain loops, and runs a tiny training from end to end.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use approx::assert_relative_eq;
use atedm_core::plugin::{Row, Step, Unpruned};
use atedm_core::{DType, Result, Tensor, Weights};
use atedm_tch::{Device, TchTensor, Torch};
use tch::{Kind, Tensor as Raw};

use super::course::{Progress, Worker};
use super::diffusion::min_snr;
use super::init::{Init, ends_branch};
use super::state::{self, Belonging};
use super::*;
use atedm_sdxl::architecture::{Architecture, Folder as ModelFolder, Parameter, Vocabulary};
use atedm_sdxl::checkpoint::Part as Folder;
use atedm_sdxl::unet::{UNet, UNetConfig, UNetInput};
use atedm_sdxl::weights::random_values;

/// A recipe of the repository.
fn text(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/training");
    let file = folder.join(name).with_extension("toml");
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The recipe that trains in seconds.
fn tiny() -> Recipe {
    toml::from_str(&text("tiny")).unwrap()
}

/// The recipes are valid and have the stated sizes.
#[test]
fn the_recipes_are_of_their_sizes() {
    let recipes = [
        ("shapes", [256, 64], 12_000_000),
        ("shapes-128", [1024, 256], 11_000_000),
        ("shapes-256", [4096, 1024], 11_000_000),
        ("emoji", [1024, 256], 11_000_000),
    ];
    for (name, tokens, most) in recipes {
        let recipe: Recipe = toml::from_str(&text(name)).unwrap();
        recipe.check().unwrap();
        let model = &recipe.model;
        let levels = [1, 2].map(|level| (model.latent_size() >> level).pow(2));
        assert_eq!(levels, tokens, "{name}");
        assert!(model.unet.layers >= 2 && model.unet.depths[1..].iter().all(|&depth| depth >= 2), "{name}");
        let words: Vec<String> = crate::scenes::caption::vocabulary_captions().collect();
        let vocabulary = Vocabulary::learn(words.iter().map(String::as_str), 4096).unwrap();
        let parts = Folder::ALL.iter().flat_map(|part| model.parameters(&vocabulary, *part));
        let count: usize = parts.map(|parameter| parameter.count()).sum();
        assert!(count <= most, "{name}: {count} parameters");
    }
}

fn values(tensor: &Raw) -> Vec<f32> {
    state::to_host(tensor).unwrap()
}

/// Two tensors: a matrix and a bias.
fn parameters() -> Parameters {
    let list = [("a.weight".to_string(), vec![2, 3]), ("a.bias".to_string(), vec![2])];
    let initial = |name: &str, shape: &[usize]| {
        (0..shape.iter().product()).map(|i| i as f32 * 0.5 - 1.0 + name.len() as f32 * 0.1).collect()
    };
    Parameters::new(list, initial, Device::Cpu).unwrap()
}

fn course() -> Course {
    Course {
        steps: 20,
        batch: 2,
        workers: 2,
        learning_rate: 0.1,
        warmup: 4,
        cooldown: 5,
        weight_decay: 0.2,
        clip: 1.5,
        average: 0.9,
    }
}

#[test]
fn the_rate_rises_stays_and_falls() {
    let rates: Vec<f64> = (0..20).map(|step| course().rate(step)).collect();
    assert_relative_eq!(rates[0], 0.025);
    assert!(rates[3..15].iter().all(|rate| (rate - 0.1).abs() < 1e-12), "{rates:?}");
    assert_relative_eq!(rates[19], 0.1 / 6.0, epsilon = 1e-12);
}

/// Compares five steps with a plain loop in f64.
#[test]
fn adamw_is_the_published_algorithm() {
    let (parameters, course) = (parameters(), course());
    let mut optimizer = AdamW::new(&parameters).unwrap();
    let mut theta: Vec<f64> = values(parameters.values()).iter().map(|&v| f64::from(v)).collect();
    let (mut first, mut second, mut average) = (vec![0.0; 8], vec![0.0; 8], theta.clone());
    for step in 0..5u64 {
        let gradient: Vec<f32> = (0..8).map(|i| ((i as f32 + 1.0) * (step as f32 - 1.7)).sin()).collect();
        let length = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let given = Raw::from_slice(&gradient);
        let told = optimizer.step(&parameters, &given, &course, step).unwrap();
        assert_relative_eq!(told, length, max_relative = 1e-5);
        let scale = (course.clip / length).min(1.0);
        let rate = course.rate(step);
        let kept = course.average.min((1.0 + step as f64) / (10.0 + step as f64));
        for i in 0..8 {
            let g = f64::from(gradient[i]) * scale;
            first[i] = 0.9 * first[i] + 0.1 * g;
            second[i] = 0.99 * second[i] + 0.01 * g * g;
            let count = step as i32 + 1;
            let (m, v) = (first[i] / (1.0 - 0.9f64.powi(count)), second[i] / (1.0 - 0.99f64.powi(count)));
            // the bias (the last two) does not decay
            let decay = if i < 6 { course.weight_decay * theta[i] } else { 0.0 };
            theta[i] -= rate * (m / (v.sqrt() + 1e-8) + decay);
            average[i] = kept * average[i] + (1.0 - kept) * theta[i];
        }
    }
    for (got, expected) in [(parameters.values(), &theta), (&optimizer.average, &average)] {
        for (got, expected) in values(got).into_iter().zip(expected) {
            assert_relative_eq!(f64::from(got), *expected, max_relative = 1e-4, epsilon = 1e-6);
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let parameters = parameters();
    let mut optimizer = AdamW::new(&parameters).unwrap();
    let before = values(parameters.values());
    let error = optimizer.step(&parameters, &Raw::from_slice(&[f32::NAN; 8]), &course(), 3).unwrap_err();
    assert_eq!(error.to_string(), "the gradient of step 3 is not finite");
    assert_eq!(values(parameters.values()), before);
}

/// `sum((W x)²)` over the worker's share. The bias is not used.
struct Squares(f32);

impl Worker for Squares {
    fn loss(&mut self, weights: &Weights<TchTensor>, step: u64) -> Result<TchTensor> {
        let weight = Raw::from(weights.scope("a").tensor("weight", &[2, 3])?);
        let x = Raw::from_slice(&[self.0, 1.0, step as f32]);
        Ok(TchTensor::from(weight.matmul(&x).square().sum(Kind::Float)))
    }
}

#[test]
fn gradients_of_workers_are_averaged_in_order() {
    let parameters = parameters();
    let start = values(parameters.values());
    let handles = parameters.handles();
    let weights = handles.weights(Kind::Float).unwrap();
    let loss = Squares(2.0).loss(&weights, 0).unwrap();
    let gradient = values(&handles.gradient(&loss).unwrap());
    for row in 0..2 {
        let w = &start[3 * row..3 * row + 3];
        let y = 2.0 * w[0] + w[1];
        for (i, x) in [2.0, 1.0, 0.0].into_iter().enumerate() {
            assert_relative_eq!(gradient[3 * row + i], 2.0 * y * x, epsilon = 1e-5);
        }
    }
    assert_eq!(gradient[6..], [0.0, 0.0], "the loss does not read the bias");

    let run = || {
        let mut progress = Progress::new(self::parameters()).unwrap();
        let mut workers = [Squares(2.0), Squares(-1.0)];
        let losses: Vec<f64> =
            (0..6).map(|_| progress.step(&mut workers, &course(), Kind::Float).unwrap()).collect();
        (losses, values(progress.parameters.values()))
    };
    let (losses, end) = run();
    assert_eq!(run(), (losses.clone(), end.clone()));
    let mean = {
        let y = |x: f32, row: usize| x * start[3 * row] + start[3 * row + 1];
        let loss = |x| y(x, 0).powi(2) + y(x, 1).powi(2);
        f64::from((loss(2.0) + loss(-1.0)) / 2.0)
    };
    assert_relative_eq!(losses[0], mean, max_relative = 1e-5);
    assert_ne!(end, start);
}

#[test]
fn states_come_back_and_belong_to_one_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    let belonging = Belonging { recipe: "one".into(), length: [20, 5] };
    let mut progress = Progress::new(parameters()).unwrap();
    assert!(!state::restore(&mut progress, &belonging, &file).unwrap(), "there is none yet");
    for _ in 0..3 {
        progress.step(&mut [Squares(2.0)], &course(), Kind::Float).unwrap();
    }
    state::save(&progress, &belonging, &file).unwrap();
    let mut again = Progress::new(parameters()).unwrap();
    let longer = Belonging { length: [40, 9], ..belonging.clone() };
    assert!(
        state::restore(&mut again, &longer, &file).unwrap(),
        "before the cooldown a course may be lengthened"
    );
    assert_eq!(again.done, 3);
    let loss = |progress: &mut Progress| progress.step(&mut [Squares(2.0)], &course(), Kind::Float).unwrap();
    assert_eq!(loss(&mut again), loss(&mut progress));
    assert_eq!(values(again.parameters.values()), values(progress.parameters.values()));
    assert_eq!(values(&again.optimizer.average), values(&progress.optimizer.average));

    let refused = |belonging: &Belonging| {
        let mut progress = Progress::new(parameters()).unwrap();
        state::restore(&mut progress, belonging, &file).unwrap_err().to_string()
    };
    let other = refused(&Belonging { recipe: "two".into(), ..belonging.clone() });
    assert!(other.contains("state.safetensors: was written with another recipe"), "{other}");
    let shorter = refused(&Belonging { length: [4, 2], ..belonging });
    assert!(shorter.contains("its cooldown has begun (step 3)"), "{shorter}");
    std::fs::write(&file, [1, 2, 3]).unwrap();
    assert!(refused(&Belonging { recipe: "one".into(), length: [20, 5] }).contains("state.safetensors"));
}

#[test]
fn min_snr_is_one_where_noise_wins() {
    assert_relative_eq!(min_snr(0.01, 5.0), 1.0);
    let alpha = 10.0 / 11.0;
    assert_relative_eq!(min_snr(alpha, 5.0), 0.5, max_relative = 1e-9);
}

/// Losses as the observer got them: the course, its step, the loss.
type Told = Rc<RefCell<Vec<(Part, u64, f64)>>>;

/// Records losses, and breaks after a number of steps of both courses.
struct Notes {
    left: usize,
    losses: Told,
    models: Vec<u64>,
}

impl Observer for Notes {
    fn step(&mut self, part: Part, done: u64, _: u64, loss: f64) -> ControlFlow<()> {
        self.losses.borrow_mut().push((part, done, loss));
        self.left -= 1;
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn saved(&mut self, trained: &Trained) -> Result<()> {
        self.models.push(trained.steps);
        Ok(())
    }
}

fn run(folder: &Path, left: usize, losses: &Told) -> Option<Trained> {
    let options = Options {
        folder: folder.to_path_buf(),
        device: Device::Cpu,
        dtype: DType::F32,
        save_every: Duration::from_secs(3600),
    };
    let mut notes = Notes { left, losses: losses.clone(), models: Vec::new() };
    train(&tiny(), &options, &mut notes).unwrap()
}

/// A training that is interrupted in both courses and continued gives the same losses and weights as one without a break.
#[test]
fn a_training_resumes_where_it_was_left() {
    let recipe = tiny();
    let steps = (recipe.autoencoder.training.steps + recipe.diffusion.training.steps) as usize;
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (Rc::default(), Rc::default());
    let at_once = run(whole.path(), steps + 1, &one).unwrap();
    assert_eq!(at_once.steps, recipe.diffusion.training.steps);
    let mut left = steps;
    let mut resumed = None;
    for stop in [2, 3, 2] {
        assert!(resumed.is_none());
        resumed = run(parts.path(), stop, &other);
        left -= stop;
    }
    assert!(resumed.is_none());
    let resumed = run(parts.path(), left + 1, &other).unwrap();
    assert_eq!(*one.borrow(), *other.borrow());
    assert_eq!(at_once.weights, resumed.weights);
    for part in [Part::Autoencoder, Part::Diffusion] {
        let read =
            |folder: &Path| std::fs::read_to_string(folder.join(part.name()).join("loss.csv")).unwrap();
        assert_eq!(read(whole.path()), read(parts.path()));
    }
    let card = at_once.card(&recipe, None).unwrap();
    assert!(card.contains("tiny") && card.contains("seed = 5"), "{card}");
}

/// Errors name wrong values by table and field.
#[test]
fn recipes_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recipe.toml");
    let whole = text("tiny");
    let error = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        std::fs::write(&file, whole.replacen(from, to, 1)).unwrap();
        Recipe::read(&file).unwrap_err().to_string()
    };
    for (from, to, expected) in [
        ("batch = 4", "batch = 3", "autoencoder.training.batch: expected a multiple of workers = 2, got 3"),
        (
            "caption_dropout = 0.1",
            "caption_dropout = 2.0",
            "diffusion.caption_dropout: expected 0 to 1, got 2",
        ),
        ("seed = 5", "sed = 5", "unknown field `sed`"),
        ("learning_rate = 0.002", "learning_rate = nan", "learning_rate: expected"),
        ("head_channels = 8", "head_channels = 0", "head_channels"),
    ] {
        let message = error(from, to);
        assert!(message.contains("recipe.toml") && message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    assert!(Recipe::read(&folder.path().join("none.toml")).unwrap_err().to_string().contains("none.toml"));
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(Recipe::read(&file).unwrap(), tiny());
    assert_eq!(toml::from_str::<Recipe>(&tiny().to_toml().unwrap()).unwrap(), tiny());
}

/// A caption that does not fit the context is an error that names it. It is not cut.
#[test]
fn long_captions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = tiny();
    recipe.model.context = 6;
    recipe.autoencoder.training = Course { steps: 1, warmup: 0, cooldown: 0, ..recipe.autoencoder.training };
    let options = Options {
        folder: folder.path().to_path_buf(),
        device: Device::Cpu,
        dtype: DType::F32,
        save_every: Duration::from_secs(3600),
    };
    let mut notes = Notes { left: 9, losses: Rc::default(), models: Vec::new() };
    let error = train(&recipe, &options, &mut notes).unwrap_err().to_string();
    assert!(error.starts_with("context: ") && error.contains("tokens cut off"), "{error}");
}

/// The gradient of a cast reaches the f32 masters.
#[test]
fn half_activations_train_f32_masters() {
    let handles = parameters().handles();
    let weights = handles.weights(Kind::BFloat16).unwrap();
    let weight = weights.tensor("a.weight", &[2, 3]).unwrap();
    assert_eq!(weight.dtype(), DType::BF16);
    let loss = Raw::from(weight.cast(DType::F32).unwrap()).square().sum(Kind::Float);
    let gradient = handles.gradient(&TchTensor::from(loss)).unwrap();
    assert_eq!(gradient.kind(), Kind::Float);
    assert!(values(&gradient)[0] != 0.0);
}

/// The folder of a model with random weights.
fn written(model: &Architecture, vocabulary: &Vocabulary, to: &Path) {
    let folder = ModelFolder { architecture: model, vocabulary, name: "start", card: "", dtype: DType::F32 };
    let values = |part: Folder, parameter: &Parameter| {
        Ok(random_values(9, &format!("{}.{}", part.folder(), parameter.name), &parameter.shape))
    };
    folder.write(to, values).unwrap();
}

fn learnt() -> Vocabulary {
    let captions: Vec<String> = crate::scenes::caption::vocabulary_captions().collect();
    Vocabulary::learn(captions.iter().map(String::as_str), 4096).unwrap()
}

/// A U-Net's prediction of fixed latents, from the averaged weights of a training that has not begun.
fn prediction(recipe: &Recipe, init: &Init, vocabulary: &Vocabulary) -> Vec<f32> {
    let model = &recipe.model;
    let list = model.parameters(vocabulary, Folder::UNet).into_iter();
    let list = list.map(|parameter| (format!("unet.{}", parameter.name), parameter.shape));
    let first = |name: &str, shape: &[usize]| match init.values(name) {
        Some(values) => values,
        None if ends_branch(name) => vec![0.0; shape.iter().product()],
        None => random_values(1, name, shape),
    };
    let weights = Parameters::new(list, first, Device::Cpu).unwrap().handles().weights(Kind::Float).unwrap();
    let config = UNetConfig::from_json(Path::new("unet"), model.config(vocabulary, Folder::UNet)).unwrap();
    let unet = UNet::<Torch>::load(&weights.scope("unet"), &config).unwrap();
    let random = |name: &str, shape: &[usize]| {
        TchTensor::from_f32(&random_values(2, name, shape), shape, DType::F32, &Device::Cpu).unwrap()
    };
    let input = UNetInput {
        latents: &random("latents.weight", &[1, 4, 8, 8]),
        timesteps: &[500.0],
        text: &random("text.weight", &[1, 5, model.text_channels()]),
        pooled: &random("pooled.weight", &[1, model.text.projection]),
        time_ids: &[[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]],
        timestep_cond: None,
        step: &Step { index: 0, total: 1, evaluation: 0, sigma: 0.0, timestep: 0.0 },
        rows: &Row::singles(1),
        control: None,
    };
    unet.forward(&input, &mut Unpruned).unwrap().to_f32().unwrap()
}

#[test]
fn a_deeper_model_begins_as_the_one_it_grows_from() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, vocabulary) = (tiny(), learnt());
    written(&recipe.model, &vocabulary, folder.path());
    let same = Init::open(folder.path(), &recipe.model, &vocabulary).unwrap();
    let mut deeper = tiny();
    deeper.model.unet.depths[2] += 2;
    let grown = Init::open(folder.path(), &deeper.model, &vocabulary).unwrap();
    let expected = prediction(&recipe, &same, &vocabulary);
    assert!(expected.iter().any(|value| value.abs() > 1e-3));
    assert_eq!(prediction(&deeper, &grown, &vocabulary), expected);
}

#[test]
fn a_model_of_other_sizes_is_no_start() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, vocabulary) = (tiny(), learnt());
    written(&recipe.model, &vocabulary, folder.path());
    let error = |change: &dyn Fn(&mut Architecture)| {
        let mut model = recipe.model.clone();
        change(&mut model);
        Init::open(folder.path(), &model, &vocabulary).unwrap_err().to_string()
    };
    assert!(error(&|model| model.unet.depths[2] = 0).contains("is not in the model of the recipe"));
    assert!(error(&|model| model.unet.layers += 1).contains("is not in the model to start from"));
    assert!(error(&|model| model.text.projection *= 2).contains("shape"));
    let words = Vocabulary::of_words(["red"]);
    let other = Init::open(folder.path(), &recipe.model, &words).unwrap_err().to_string();
    assert!(other.contains("init") && other.contains("vocab.json"), "{other}");
}
