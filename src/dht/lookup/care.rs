//! How much a lookup waits for, and how far out it looks.

use crate::dht::table::K;

/// Nodes around the target that have to say that they do not have an item before it counts as not there. When half of the
/// nodes are replaced in the hour until it is put again, six of its twelve holders are left, among some twenty that are as
/// near.
pub(super) const WIDE: usize = 20;

/// How much a lookup is to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dht) enum Care {
    /// Enough was found, or any nodes near the target will do: whoever is late is not waited for.
    Quick,
    /// So many of the nearest must have answered: whoever is late among them is asked once more and waited for.
    Careful(usize),
    /// Next to nothing was found, and to say so is a claim about everybody who might have it. Since an item was put,
    /// newcomers have come between its holders and the target, so the nearest [`WIDE`] are asked; and whoever of them
    /// did not answer is tried once more in the end.
    Thorough,
}

impl Care {
    /// Whether each of the nearest is asked once more and waited for.
    pub(super) fn minds_each(self) -> bool {
        self != Self::Quick
    }

    /// How many of the nearest nodes are asked.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Quick => K,
            Self::Careful(width) => width,
            Self::Thorough => WIDE,
        }
    }
}
