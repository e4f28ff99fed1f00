//! A node that a lookup may ask, and what became of asking it.

use crate::wire::krpc::Contact;

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) contact: Contact,
    pub(super) state: State,
    /// Whether a query to it would have had to wait when it was its turn to be asked.
    pub(super) is_busy: bool,
    /// Whether little was expected of it when it was asked.
    pub(super) is_doubtful: bool,
    /// Whether it was given up before and is tried once more.
    pub(super) is_retried: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Fresh,
    Asked,
    /// To be asked when its turn comes, which our own pace puts off.
    Waiting,
    Late,
    Answered {
        token: Option<Vec<u8>>,
    },
    /// It never answered.
    Silent,
    /// It answered with an error, or is not who it was said to be.
    Failed,
}

impl Candidate {
    pub(super) fn new(contact: Contact, state: State) -> Self {
        Self { contact, state, is_busy: false, is_doubtful: false, is_retried: false }
    }

    /// Whether it holds no place among the nearest any more.
    pub(super) fn is_past(&self) -> bool {
        self.is_put_off() || matches!(self.state, State::Late | State::Silent | State::Failed)
    }

    /// Whether our own pace holds up the query to it.
    pub(super) fn is_put_off(&self) -> bool {
        self.state == State::Waiting || (self.state == State::Fresh && self.is_busy)
    }

    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered { .. })
    }
}
