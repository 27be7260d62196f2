//! What a prompt is weighed by, and what is believed of that before anything is known.

use crate::usage::demand::{Demand, PromptWeight};
use crate::usage::regression::Belief;
use crate::usage::texture::Texture;

/// Features beside those of the texture: prompts, messages, tools, structure.
const FRAME: usize = 4;
/// Everything a prompt is weighed by.
pub(super) const FEATURES: usize = FRAME + Texture::COUNTS;
/// What a prompt is weighed by once its text has been counted.
pub(super) const COUNTED: usize = FRAME + 1;

/// Tokens expected of each feature before anything is seen. The spreads are generous: they fade
/// with the first answers, and until then they keep the bound wide.
pub(super) static PRIOR: [Belief; FEATURES] = [
    // Each prompt, message and tool: what chat templates put around them.
    belief(16.0, 64.0),
    belief(5.0, 8.0),
    belief(8.0, 16.0),
    // Bytes of brackets, quotes and commas around structured values.
    belief(0.3, 0.6),
    // Words, and what long ones have more; letters and capitals within words.
    belief(1.0, 0.8),
    belief(0.4, 0.8),
    belief(0.02, 0.2),
    belief(0.3, 0.8),
    // Groups of digits; marks and runs of them; runs of white space.
    belief(1.0, 1.0),
    belief(0.5, 0.8),
    belief(0.3, 0.8),
    belief(0.8, 1.0),
    // Characters beyond ASCII: of two bytes, kana, ideographs, hangul, others, of four bytes.
    belief(0.5, 1.0),
    belief(0.8, 1.2),
    belief(0.8, 1.2),
    belief(0.8, 1.5),
    belief(1.0, 1.5),
    belief(2.0, 2.0),
];

/// The same, where the text has been counted by another tokenizer: one of its tokens is about one.
pub(super) static PRIOR_COUNTED: [Belief; COUNTED] =
    [belief(16.0, 64.0), belief(5.0, 8.0), belief(8.0, 16.0), belief(0.3, 0.6), belief(1.0, 0.5)];

const fn belief(mean: f64, spread: f64) -> Belief {
    Belief { mean, spread }
}

/// What a prompt is weighed by.
pub(super) fn features(demand: &Demand) -> [f64; FEATURES] {
    fill(frame(demand).into_iter().chain(demand.prompt.texture.counts))
}

/// The same, where another tokenizer has counted its text.
pub(super) fn counted_features(demand: &Demand, counted: u64) -> [f64; COUNTED] {
    fill(frame(demand).into_iter().chain([counted]))
}

fn frame(demand: &Demand) -> [u64; FRAME] {
    let PromptWeight { messages, tools, structure, .. } = demand.prompt;
    [demand.prompts, messages, tools, structure]
}

fn fill<const N: usize>(counts: impl Iterator<Item = u64>) -> [f64; N] {
    let mut features = [0.0; N];
    features.iter_mut().zip(counts).for_each(|(feature, count)| *feature = float(count));
    features
}

#[expect(clippy::cast_precision_loss, reason = "counts of bytes and tokens are far below 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
