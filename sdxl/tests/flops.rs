//! Compares costs and sizes by formula with exact counts of an independent model of SD-XL base.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use atedm_core::at_edm::pruned_tokens;
use atedm_core::plugin::{Grid, LayerTokens};
use atedm_sdxl::checkpoint::Part;
use atedm_sdxl::config::{BlockInfo, UNetConfig};
use atedm_sdxl::flops;

/// Latent height and width, then multiply-accumulates of one sample: whole, and pruned at 63 % in every block after and
/// before the first layer's feed-forward.
const COUNTS: [(usize, usize, u64, u64, u64); 4] = [
    (128, 128, 3_380_618_199_040, 2_032_429_911_040, 1_892_936_535_040),
    (64, 64, 794_389_381_120, 498_580_326_400, 463_736_473_600),
    (93, 150, 2_936_841_441_280, 1_765_878_338_560, 1_643_607_823_360),
    (77, 11, 199_213_621_760, 133_678_376_960, 125_701_007_360),
];

#[test]
fn macs_are_exact_at_any_size() {
    let config = UNetConfig::sdxl_base();
    for (height, width, full, after, before) in COUNTS {
        let grid = Grid::new(height, width);
        let plan = |before_ff: bool| {
            move |block: &BlockInfo| {
                let all = block.grid.tokens();
                let kept = all - pruned_tokens(0.63, all);
                let mut layers = vec![LayerTokens::whole(kept); block.depth];
                layers[0] = LayerTokens::whole(all);
                if before_ff {
                    layers[0].feed_forward = kept;
                }
                Ok(layers)
            }
        };
        assert_eq!(flops::full(&config, grid, 77).unwrap().sum().total(), full);
        assert_eq!(flops::pruned(&config, grid, 77, None, plan(false)).unwrap().sum().total(), after);
        assert_eq!(flops::pruned(&config, grid, 77, None, plan(true)).unwrap().sum().total(), before);
    }
}

#[test]
fn parameters_are_those_a_checkpoint_holds() {
    let tiny = UNetConfig::from_json(Path::new("unet"), support::unet_json()).unwrap();
    let held: usize = support::tensors_of(Part::UNet).values().map(|(_, values)| values.len()).sum();
    assert_eq!(tiny.parameters(), held as u64);
}
