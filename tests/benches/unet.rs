//! A transformer block of SD-XL's U-Net, two layers deep, whole and pruned.
//!
//! `cargo bench -p atedm-tests --bench unet`
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::hint::black_box;
use std::time::Duration;

use atedm_candle::{Candle, Device};
use atedm_conformance::backend::block::TestBlock;
use atedm_conformance::backend::support::Lab;
use atedm_conformance::oracle::BlockShape;
use atedm_core::at_edm::{AtEdmConfig, Parts, PrunePoint};
use atedm_core::plugin::{BuildContext, Grid, TokenReducer, Unpruned};
use atedm_core::{Backend, DType, DeviceOf};
use criterion::{Criterion, criterion_group, criterion_main};
use support::{PLACES, synced};

fn bench<B: Backend>(criterion: &mut Criterion, device: &DeviceOf<B>) {
    for place in PLACES {
        let shape = BlockShape {
            depth: 2,
            heads: place.heads,
            channels: place.channels(),
            text: 2048,
            text_tokens: 77,
        };
        let grid = Grid::new(place.side, place.side);
        let mut lab = Lab::<B>::new(device, DType::F32, 1);
        let block = TestBlock::new(&mut lab, shape, 1, grid).unwrap();
        let mut group = criterion.benchmark_group(format!("{}/block/{}", B::NAME, place.name));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(5));
        let at_edm = |prune_point, votes| -> Box<dyn TokenReducer<B::Tensor>> {
            let config = AtEdmConfig {
                prune_point,
                schedule: "constant".into(),
                max_iterations: votes,
                epsilon: 0.0,
                ..AtEdmConfig::default()
            };
            Box::new(config.build(&BuildContext::default(), &Parts::with_builtins()).unwrap())
        };
        for (name, mut reducer) in [
            ("whole", Box::new(Unpruned) as Box<dyn TokenReducer<B::Tensor>>),
            ("after_ff_5_votes", at_edm(PrunePoint::AfterFf, 5)),
            ("after_ff_1_vote", at_edm(PrunePoint::AfterFf, 1)),
            ("before_ff_5_votes", at_edm(PrunePoint::BeforeFf, 5)),
        ] {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|iterations| {
                    synced::<B>(device, iterations, || {
                        drop(black_box(B::inference(|| block.run(&mut *reducer)).unwrap()));
                    })
                });
            });
        }
        group.finish();
    }
}

fn candle(criterion: &mut Criterion) {
    bench::<Candle>(criterion, &Device::Cpu);
}

criterion_group!(benches, candle);
criterion_main!(benches);
