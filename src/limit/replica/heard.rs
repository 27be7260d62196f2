//! What others did that the order of turns depends on.

use super::clock::Clock;
use super::common::{Head, Turn, Word};

/// Something that another replica did which the order of turns depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Heard {
    /// A request of its was let go.
    Held {
        /// Whose it is, and its number there.
        name: (u64, u64),
        /// Whose turn it took.
        turn: Turn,
    },
    /// It ended; the tokens that its tenant is charged, if not as many as before.
    Ended {
        /// Whose it is, and its number there.
        name: (u64, u64),
        /// Tokens.
        fair: Option<u64>,
    },
    /// Who waits first there.
    Waits {
        /// The replica.
        replica: u64,
        /// The first in line, if anybody waits.
        head: Option<Head>,
    },
    /// The replica is gone.
    Gone {
        /// Which.
        replica: u64,
    },
}

impl Word {
    /// What the order of turns depends on.
    pub(super) fn heard(&self, owner: u64, clock: Clock) -> Option<Heard> {
        match *self {
            Self::Held { id, turn, .. } => Some(Heard::Held { name: (owner, id), turn }),
            Self::Ended { id, fair, .. } => Some(Heard::Ended { name: (owner, id), fair }),
            Self::Waits(head) => {
                let head = head.map(|it| Head { order: clock.local(it.order), ..it });
                Some(Heard::Waits { replica: owner, head })
            }
            _ => None,
        }
    }
}
