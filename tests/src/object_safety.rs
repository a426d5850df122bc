//! Every trait that is chosen at run time must work behind a pointer. Otherwise these lines do not compile.

use atedm_core::WeightSource;
use atedm_core::at_edm::{TokenRecovery, TokenScorer, TokenSelector};
use atedm_core::plugin::{PruneObserver, PruningSchedule, Reduction, TokenReducer};
use atedm_core::reference::NdTensor;
use atedm_sdxl::rng::NoiseSource;
use atedm_sdxl::schedulers::Sampler;

fn _reducer(_: Box<dyn TokenReducer<NdTensor>>) {}
fn _reduction(_: Box<dyn Reduction<NdTensor>>) {}
fn _scorer(_: Box<dyn TokenScorer<NdTensor>>) {}
fn _selector(_: Box<dyn TokenSelector<NdTensor>>) {}
fn _recovery(_: Box<dyn TokenRecovery<NdTensor>>) {}
fn _schedule(_: Box<dyn PruningSchedule>) {}
fn _observer(_: Box<dyn PruneObserver<NdTensor>>) {}
fn _weights(_: Box<dyn WeightSource<NdTensor>>) {}
fn _sampler(_: Box<dyn Sampler<NdTensor>>) {}
fn _noise(_: Box<dyn NoiseSource>) {}
