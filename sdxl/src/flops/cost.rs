//! Counts of multiply-accumulates, by kind of operation and by part of the U-Net.

/// Multiply-accumulates by kind of operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Macs {
    /// 3×3 convolutions: in resnets, for down- and upsampling, the first and the last.
    pub convolutions: u64,
    /// 1×1 convolutions: on resnets' shortcuts, and on a ControlNet's outputs.
    pub shortcuts: u64,
    /// Time, size, text and guidance embeddings, and their projection in each resnet.
    pub embeddings: u64,
    /// `proj_in` and `proj_out` of attention blocks.
    pub projections: u64,
    /// Query, key, value and output projections of self-attention.
    pub self_projections: u64,
    /// `q kᵀ` and `A v` of self-attention.
    pub self_products: u64,
    /// Query, output and the text's key and value projections of cross-attention.
    pub cross_projections: u64,
    /// `q kᵀ` and `A v` of cross-attention.
    pub cross_products: u64,
    /// Feed-forward layers (GEGLU: 8 c² in, 4 c² out).
    pub feed_forward: u64,
}

impl Macs {
    /// All kinds with their names, in the order of the paper's Fig. 2 (convolutions first).
    pub(crate) fn by_kind(&self) -> [(&'static str, u64); 9] {
        [
            ("conv 3x3", self.convolutions),
            ("conv 1x1 shortcut", self.shortcuts),
            ("embeddings", self.embeddings),
            ("proj_in/out", self.projections),
            ("self-attention q,k,v,out", self.self_projections),
            ("self-attention products", self.self_products),
            ("cross-attention q,k,v,out", self.cross_projections),
            ("cross-attention products", self.cross_products),
            ("feed-forward", self.feed_forward),
        ]
    }

    /// The sum over all kinds.
    pub fn total(&self) -> u64 {
        self.by_kind().iter().fold(0, |sum, (_, macs)| sum.saturating_add(*macs))
    }

    /// The sum in TFLOP: 2 × MAC · 10⁻¹².
    pub fn tflop(&self) -> f64 {
        tflop(self.total())
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.convolutions, other.convolutions),
            (&mut self.shortcuts, other.shortcuts),
            (&mut self.embeddings, other.embeddings),
            (&mut self.projections, other.projections),
            (&mut self.self_projections, other.self_projections),
            (&mut self.self_products, other.self_products),
            (&mut self.cross_projections, other.cross_projections),
            (&mut self.cross_products, other.cross_products),
            (&mut self.feed_forward, other.feed_forward),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// A product that saturates at the largest number.
pub(super) fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product, factor| product.saturating_mul(*factor))
}

/// Multiply-accumulates as TFLOP.
pub fn tflop(macs: u64) -> f64 {
    2e-12 * macs as f64
}

/// The cost of one part of the U-Net.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartCost {
    /// The part's name: `embeddings`, `conv_in`, `down.0.conv`, `down.1.attention`, `mid.conv`, … Those of a ControlNet begin
    /// with `control-`.
    pub name: String,
    /// The part's multiply-accumulates.
    pub macs: Macs,
}

/// The cost of one U-Net evaluation, by part and in total.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UNetCost {
    /// The parts in the order of a forward pass. A part that occurs twice is one entry.
    pub parts: Vec<PartCost>,
}

impl UNetCost {
    /// The sum over all parts.
    pub fn sum(&self) -> Macs {
        let mut sum = Macs::default();
        self.parts.iter().for_each(|part| sum.add(&part.macs));
        sum
    }

    /// The cost of the part with this name.
    pub fn part(&self, name: &str) -> Option<&Macs> {
        self.parts.iter().find(|part| part.name == name).map(|part| &part.macs)
    }

    pub(super) fn tally(&mut self, name: String, macs: &Macs) {
        match self.parts.iter_mut().find(|part| part.name == name) {
            Some(part) => part.macs.add(macs),
            None => self.parts.push(PartCost { name, macs: *macs }),
        }
    }
}
