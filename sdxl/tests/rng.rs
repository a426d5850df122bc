//! Compares noise with torch's own values, and checks the guarantees of the portable generator.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pipeline_support;

use atedm_core::DType;
use atedm_sdxl::rng::{ChaChaNoise, NoiseDType, NoiseSource, RngKind, TorchRng};
use pipeline_support::{Golden, fixtures};

/// `torch.randn(20, generator=torch.Generator().manual_seed(0))`, torch 2.11 on the CPU with AVX2.
const SEED_0: [f32; 20] = [
    -1.125_839_8,
    -1.152_360_2,
    -0.250_578_58,
    -0.433_878_8,
    0.598_839_46,
    -1.555_095_1,
    -0.341_360_4,
    1.853_006_1,
    0.468_096_4,
    -0.157_712_44,
    1.443_660_1,
    0.266_049_4,
    1.389_366_1,
    1.586_334_2,
    0.946_298_36,
    -0.843_676_75,
    0.931_826_6,
    1.259_009_2,
    2.004_980_6,
    0.053_736_903,
];

#[test]
fn seed_0_is_torchs() {
    assert_eq!(TorchRng::new(0).randn(20), SEED_0);
}

/// Every golden draw of torch 2.11 is reproduced bit for bit.
#[test]
fn all_golden_draws_are_torchs() {
    let golden = Golden::open(fixtures().join("torch_randn.safetensors"));
    let mut compared = 0;
    for name in golden.names() {
        let parts: Vec<&str> = name.split('.').collect();
        let ["seed", seed, kind, rest @ ..] = parts.as_slice() else { panic!("{name}") };
        let mut rng = TorchRng::new(seed.parse().unwrap());
        let expected = golden.f32(&name);
        match (*kind, rest) {
            ("draw", [_]) => {}
            ("two_draws", [_, _, "first"]) => {}
            ("two_draws", [first, _, "second"]) => drop(rng.randn(first.parse().unwrap())),
            _ => panic!("{name}"),
        }
        let got = rng.randn(expected.len());
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&expected), "{name}");
        compared += 1;
    }
    assert!(compared >= 80, "only {compared} draws");
}

/// Torch has a separate algorithm for each other dtype. f16 and bf16 agree bit for bit, f64 to the C library's last
/// bit.
#[test]
fn draws_in_other_dtypes_are_torchs() {
    let golden = Golden::open(fixtures().join("torch_randn_dtypes.safetensors"));
    let mut compared = [0; 3];
    for name in golden.names() {
        let parts: Vec<&str> = name.split('.').collect();
        let [dtype, "seed", seed, kind, rest @ ..] = parts.as_slice() else { continue };
        let (place, dtype, tolerance) = match *dtype {
            "f16" => (0, DType::F16, 0.0),
            "bf16" => (1, DType::BF16, 0.0),
            _ => (2, DType::F64, 1e-7),
        };
        let mut rng = TorchRng::new(seed.parse().unwrap()).drawing(dtype);
        if let ("two_draws", [first, _, "second"]) = (*kind, rest) {
            drop(rng.randn(first.parse().unwrap()));
        }
        let expected = golden.f32(&name);
        let got = rng.standard_normal(&golden.shape(&name)).unwrap();
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert!((got - expected).abs() <= tolerance, "{name}[{i}]: {got}, expected {expected}");
        }
        compared[place] += 1;
    }
    assert_eq!(compared, [30; 3]);
}

/// An autoencoder in f32 and a pipeline in f16 draw from the same generator.
#[test]
fn one_generator_draws_in_two_dtypes() {
    let golden = Golden::open(fixtures().join("torch_randn_dtypes.safetensors"));
    let mut source = RngKind::Torch.source(3, 1, DType::F16);
    assert_eq!(source.standard_normal_in(&[20], DType::F32).unwrap(), golden.f32("mixed.f32"));
    assert_eq!(source.standard_normal(&[20]).unwrap(), golden.f32("mixed.f16"));
}

#[test]
fn the_dtype_of_noise() {
    let of = |dtype: NoiseDType| [DType::F32, DType::F16].map(|model| dtype.beside(model));
    assert_eq!(of(NoiseDType::OfModel), [DType::F32, DType::F16]);
    assert_eq!(of(NoiseDType::Always(DType::BF16)), [DType::BF16; 2]);
    let draw = |kind: RngKind, dtype| kind.source(1, 1, dtype).standard_normal(&[1, 32]).unwrap();
    assert_ne!(draw(RngKind::Torch, DType::F16), draw(RngKind::Torch, DType::F32));
    assert_eq!(draw(RngKind::ChaCha, DType::F16), draw(RngKind::ChaCha, DType::F32));
}

/// As in torch, the high half of a seed is ignored.
#[test]
fn seeds_are_32_bits() {
    assert_eq!(TorchRng::new(7).randn(64), TorchRng::new((1 << 40) + 7).randn(64));
}

/// Below 16 values, normals come in pairs. The second one waits for the next small draw, even if large ones come
/// between.
#[test]
fn small_draws_share_pairs() {
    let five = TorchRng::new(3).randn(5);
    let mut rng = TorchRng::new(3);
    assert_eq!([rng.randn(1), rng.randn(3), rng.randn(1)].concat(), five);

    let mut with_large = TorchRng::new(3);
    assert_eq!(with_large.randn(1), five[..1]);
    with_large.randn(32);
    assert_eq!(with_large.randn(1), five[1..2]);
}

/// Torch draws the whole buffer, then the last 16 values again. So a tensor of 20 begins like one of 16 only up to
/// those.
#[test]
fn the_tail_is_drawn_afresh() {
    let (sixteen, twenty) = (TorchRng::new(11).randn(16), TorchRng::new(11).randn(20));
    assert_eq!(sixteen[..4], twenty[..4]);
    assert_ne!(sixteen[4..], twenty[4..16]);
}

/// An image in a batch has the same noise as alone. Another image, another seed and the next draw have different noise.
#[test]
fn chacha_images_do_not_depend_on_the_batch() {
    let shape = |rows| [rows, 4, 3, 5];
    let mut batch = ChaChaNoise::new(9, 0..3);
    let values = batch.standard_normal(&shape(3)).unwrap();
    let again = batch.standard_normal(&shape(3)).unwrap();
    for image in 0..3 {
        let mut alone = ChaChaNoise::new(9, [image as u64]);
        let row = image * 60..(image + 1) * 60;
        assert_eq!(alone.standard_normal(&shape(1)).unwrap(), values[row.clone()]);
        assert_eq!(alone.standard_normal(&shape(1)).unwrap(), again[row]);
    }
    assert_ne!(values[..60], values[60..120]);
    assert_ne!(values, again);
    assert_ne!(ChaChaNoise::new(10, 0..3).standard_normal(&shape(3)).unwrap(), values);
}

#[test]
fn chacha_is_standard_normal() {
    let values = ChaChaNoise::new(0, [0]).standard_normal(&[1, 1 << 17]).unwrap();
    let n = values.len() as f64;
    let moment = |power: i32| values.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / n;
    assert!(
        moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02,
        "mean {}, square {}",
        moment(1),
        moment(2)
    );
    assert!(
        moment(3).abs() < 0.03 && (moment(4) - 3.0).abs() < 0.1,
        "third {}, fourth {}",
        moment(3),
        moment(4)
    );
}

/// The stream is part of the interface: a seed must give the same picture in every version. The values were checked
/// against an independent ChaCha20, with Box–Muller in f64.
#[test]
fn chacha_is_pinned() {
    let values = ChaChaNoise::new(1234, [0]).standard_normal(&[1, 3]).unwrap();
    assert_eq!(values, CHACHA_1234);
}

const CHACHA_1234: [f32; 3] = [-1.408_656_2, 0.659_698_9, -0.664_816_7];

#[test]
fn chacha_refuses_another_batch() {
    let error = ChaChaNoise::new(0, 0..2).standard_normal(&[3, 4]).unwrap_err();
    assert_eq!(error.to_string(), "rng: expected noise for 2 images, got a tensor with 3");
}

#[test]
fn names() {
    for name in RngKind::NAMES {
        assert_eq!(name.parse::<RngKind>().unwrap().name(), name);
    }
    let error = "cuda".parse::<RngKind>().unwrap_err();
    assert_eq!(error.to_string(), "rng: expected torch or chacha, got \"cuda\"");
}
