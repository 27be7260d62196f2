//! What a text is mostly made of.

use crate::usage::texture::Texture;

/// The kinds that are told apart. Words of prose are not those of source code, and some kinds are
/// harder to foretell than others: each has a rule of its own and pays for its own errors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Words.
    Prose,
    /// Source code, markup, JSON: half as many marks as words, or more.
    Marked,
    /// Capitals within words: base64, identifiers.
    Dense,
    /// Mostly characters beyond ASCII.
    Wide,
}

impl Kind {
    /// How many there are.
    pub(super) const COUNT: usize = 4;

    /// The kind of a text that has been counted.
    pub(super) fn of(texture: &Texture) -> Self {
        let words = texture.words();
        if texture.wide() > words {
            Self::Wide
        } else if texture.humps() > words / 2 {
            Self::Dense
        } else if texture.marks() > words / 2 {
            Self::Marked
        } else {
            Self::Prose
        }
    }
}
