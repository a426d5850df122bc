//! The model card: the `README.md` of a written folder.

use super::{Architecture, Parameter, Vocabulary};
use crate::checkpoint::Part;

/// The mean loss over a stretch of training steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanLoss {
    /// The last step of the stretch.
    pub step: usize,
    /// The mean loss of its steps.
    pub loss: f64,
}

/// The facts of a trained model that its card states, besides its sizes.
#[derive(Debug, Clone, Copy)]
pub struct ModelCard<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The model's sizes.
    pub architecture: &'a Architecture,
    /// The model's vocabulary.
    pub vocabulary: &'a Vocabulary,
    /// The training data and their licence.
    pub data: &'a str,
    /// What the training began with: `random weights`, or another model's.
    pub start: &'a str,
    /// The recipe as TOML, with all seeds.
    pub recipe_toml: &'a str,
    /// Steps of the U-Net's training.
    pub steps: usize,
    /// Pictures that these steps saw.
    pub images: usize,
    /// The loss over stretches of steps. Each stretch is a row of the card's table.
    pub losses: &'a [MeanLoss],
    /// Peak signal-to-noise ratio of held-out pictures through the autoencoder, in decibels.
    pub vae_psnr: f64,
    /// Measured quality as Markdown. Without it, the card says that nothing was measured.
    pub evaluation: Option<&'a str>,
}

impl ModelCard<'_> {
    /// Description of the data of the `shapes` tier.
    pub const SHAPES: &'static str = "\
        The project's own seeded program (`atedm scenes`) composed the scenes. They have one or two plain shapes (circle, square, \
        triangle, star,\nring, cross) in eight colours and two sizes. Backgrounds are plain, gradient, striped or dotted. Captions \
        have a closed grammar.\nNothing was collected, and the pictures show no person, no place and no work of anyone. About a tenth \
        of all (shape, colour, background\nstyle) and of all pairs of objects never occurred in training. The program and its \
        pictures are under MIT OR Apache-2.0.";

    /// Description of the data of the `emoji` tier.
    pub const EMOJI: &'static str = "\
        The project's own seeded program (`atedm scenes --emoji`) composed the scenes. They have one or two drawings of Noto Emoji \
        (npm\n`@iconify-json/noto` 1.2.9, Apache-2.0) before plain, gradient, striped or dotted backgrounds. Captions are templates \
        with\nemojibase's labels (npm `emojibase-data` 17.0.0, MIT). The pictures are composed; they are not photographs. About a \
        tenth of all (drawing,\nbackground style, background colour) triples and of all pairs of drawings never occurred in training.";

    /// The card as Markdown, with the front matter that model hubs read.
    pub fn to_markdown(&self) -> String {
        let Self { name, data, start, vae_psnr, .. } = self;
        let (steps, pictures) = (grouped(self.steps), grouped(self.images));
        let size = self.architecture.size;
        let recipe = self.recipe_toml.trim_end();
        let parts = self.parts();
        let losses = self.loss_table();
        let evaluation = self.evaluation.map_or(
            "Nothing was measured on this model. Its pictures may not show what their prompts say.",
            str::trim_end,
        );
        format!(
            "---\n\
             license:\n- mit\n- apache-2.0\n\
             library_name: diffusers\n\
             pipeline_tag: text-to-image\n\
             ---\n\n\
             # {name}\n\n\
             This is a small model with SD-XL's structure. This project's own code (`atedm train`) trained it from {start}.\n\
             It shows what pruning does to a trained model. Its pictures are {size} pixels wide, and it knows a few words.\n\n\
             Licence of weights and card: MIT OR Apache-2.0.\n\n\
             ## Parts\n\n{parts}\n\
             ## Data\n\n{data}\n\n\
             ## Training\n\n\
             The autoencoder was trained first, then U-Net and both text encoders together: {steps} steps, {pictures} pictures. \
             The weights are\naverages over the last steps. The autoencoder reproduces pictures that it never saw with a PSNR of \
             {vae_psnr:.1} dB.\n\n\
             The recipe follows. Its `seed` decides data, first weights and every draw:\n\n\
             ```toml\n{recipe}\n```\n\n\
             The loss of the U-Net (each value is the mean over the steps since the row before):\n\n{losses}\n\
             ## Quality\n\n{evaluation}\n\n\
             ## Limits\n\n\
             - It draws only scenes like those of its training data. It does not know words that its captions do not have.\n\
             - Prompts are cut after {tokens} tokens. A word of the captions is one token.\n\
             - It is made for {size}×{size} pixels. Other sizes were not trained.\n\
             - It is not Stable Diffusion XL and holds none of its weights. Only the structure, the file format and the code path are\n\
             \u{20}\u{20}the same. Its pictures say nothing about SD-XL's quality.\n",
            tokens = self.architecture.context - 2,
        )
    }

    fn parts(&self) -> String {
        let mut table = String::from("| part | parameters |\n|---|---:|\n");
        let mut total = 0;
        for part in Part::ALL {
            let list = self.architecture.parameters(self.vocabulary, part);
            let count: usize = list.iter().map(Parameter::count).sum();
            total += count;
            table.push_str(&format!("| `{}` | {} |\n", part.folder(), grouped(count)));
        }
        table.push_str(&format!("| all | {} |\n", grouped(total)));
        table
    }

    fn loss_table(&self) -> String {
        let mut table = String::from("| step | loss |\n|---:|---:|\n");
        for MeanLoss { step, loss } in self.losses {
            table.push_str(&format!("| {} | {loss:.4} |\n", grouped(*step)));
        }
        table
    }
}

/// A number with commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::tests::small;

    #[test]
    fn cards_tell_what_was_done_and_what_was_not() {
        let (architecture, vocabulary) = (small(), Vocabulary::of_words([]));
        let losses = [(2500, 0.5), (5000, 0.01)].map(|(step, loss)| MeanLoss { step, loss });
        let card = ModelCard {
            name: "atedm-t",
            architecture: &architecture,
            vocabulary: &vocabulary,
            data: ModelCard::SHAPES,
            start: "the weights of `atedm-s`",
            recipe_toml: "seed = 1\n\n",
            steps: 5000,
            images: 160_000,
            losses: &losses,
            vae_psnr: 31.25,
            evaluation: None,
        };
        let text = card.to_markdown();
        assert!(text.starts_with("---\nlicense:\n- mit\n- apache-2.0\n"), "{text}");
        for part in [
            "\n# atedm-t\n",
            "trained it from the weights of `atedm-s`.",
            "5,000 steps",
            "160,000 pictures",
            "31.2 dB",
            "```toml\nseed = 1\n```",
            "after 10 tokens",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("Nothing was measured"), "{text}");
        assert!(text.contains("| 2,500 | 0.5000 |\n| 5,000 | 0.0100 |\n\n"), "{text}");
        let measured = ModelCard { evaluation: Some("| colour | 90 % |"), ..card };
        assert!(measured.to_markdown().contains("## Quality\n\n| colour | 90 % |\n\n"));
        assert!(!measured.to_markdown().contains("Nothing was measured"));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([7, 999, 1000, 2_567_463_684].map(grouped), ["7", "999", "1,000", "2,567,463,684"]);
    }
}
