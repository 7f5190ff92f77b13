//! Whether the commit may still be read: the plane's answer counts for a while and then has to be asked for again, because
//! what is cached here must not outlive a right that was taken away there (R6).

use std::time::{Duration, Instant};

/// How long a yes counts.
pub const YES_COUNTS: Duration = Duration::from_secs(60);
/// How long a no counts: who is given the right again should not wait long, nor ask with every read.
const NO_COUNTS: Duration = Duration::from_secs(5);
/// How long it counts that nobody answered, beyond the patience that was spent on it.
const SILENCE_COUNTS: Duration = Duration::from_secs(2);

/// What the plane said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It may be read.
    Yes,
    /// It may not.
    No,
    /// Nobody answered, and the last yes does not count any more.
    Silence,
}

/// What follows for a read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// This answer counts.
    Counts(Answer),
    /// The plane has to be asked first.
    Ask,
}

/// The last answers and when they came.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    said: Answer,
    at: Instant,
}

impl Standing {
    /// It was allowed just now.
    pub fn allowed(at: Instant) -> Self {
        Self { said: Answer::Yes, at }
    }

    /// What follows for a read at that time.
    pub fn now(&self, now: Instant) -> Now {
        let counts = match self.said {
            Answer::Yes => YES_COUNTS,
            Answer::No => NO_COUNTS,
            Answer::Silence => SILENCE_COUNTS,
        };
        match now.saturating_duration_since(self.at) < counts {
            true => Now::Counts(self.said),
            false => Now::Ask,
        }
    }

    /// Notes an answer to a question that was asked at that time; true when it turned a yes into a no.
    pub fn heard(&mut self, answer: Answer, asked: Instant, now: Instant) -> bool {
        match answer {
            // As of when it was asked: what changed on the way is not in it.
            Answer::Yes => *self = Self::allowed(asked),
            // A yes counts as long as it does, also when the plane is away meanwhile.
            Answer::Silence if self.now(now) == Now::Counts(Answer::Yes) => {}
            Answer::No | Answer::Silence => {
                let turned = answer == Answer::No && self.said != Answer::No;
                *self = Self { said: answer, at: now };
                return turned;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_counts_a_minute_and_silence_does_not_make_it_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut standing = Standing::allowed(start);
        assert_eq!(standing.now(at(59)), Now::Counts(Answer::Yes));
        assert!(!standing.heard(Answer::Silence, at(50), at(55)));
        assert_eq!(standing.now(at(59)), Now::Counts(Answer::Yes));
        assert_eq!(standing.now(at(60)), Now::Ask);
        assert!(!standing.heard(Answer::Silence, at(60), at(90)));
        assert_eq!(standing.now(at(91)), Now::Counts(Answer::Silence));
        assert_eq!(standing.now(at(92)), Now::Ask);
        assert!(!standing.heard(Answer::Yes, at(92), at(95)));
        assert_eq!(standing.now(at(151)), Now::Counts(Answer::Yes));
        assert_eq!(standing.now(at(152)), Now::Ask, "counted from when it was asked");
    }

    #[test]
    fn a_no_counts_at_once_and_is_told_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut standing = Standing::allowed(start);
        assert!(standing.heard(Answer::No, at(10), at(10)));
        assert_eq!(standing.now(at(11)), Now::Counts(Answer::No));
        assert_eq!(standing.now(at(15)), Now::Ask);
        assert!(!standing.heard(Answer::No, at(15), at(15)));
        assert!(!standing.heard(Answer::Yes, at(20), at(20)));
        assert_eq!(standing.now(at(21)), Now::Counts(Answer::Yes));
    }
}
