//! Log lines about events that may come with every datagram: the first has a line at once, the
//! others are counted in one line a minute.

/// Seconds between two lines about events of one kind.
pub const REPORT_S: i64 = 60;

/// Events of one kind. Times are UTC seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    /// Events since the last line.
    unreported: u64,
    /// When the next line is due; `None` if the next event has a line at once.
    due_at: Option<i64>,
}

impl Throttle {
    /// Notes an event and returns whether it has a line of its own.
    pub fn note(&mut self, now: i64) -> bool {
        if self.due_at.is_some() {
            self.unreported += 1;
            return false;
        }
        self.due_at = Some(now + REPORT_S);
        true
    }

    /// Whether an event was noted in the last minute, or is still to be reported.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.due_at.is_some()
    }

    /// Events since the last line, if a line about them is due. After a minute without events, the
    /// next one has a line of its own again.
    pub fn due(&mut self, now: i64) -> Option<u64> {
        let due_at = self.due_at?;
        // A clock that was set back must not delay the line for longer than a minute.
        if now < due_at && due_at <= now + REPORT_S {
            return None;
        }
        let events = std::mem::take(&mut self.unreported);
        self.due_at = Some(now + REPORT_S).filter(|_| events > 0);
        Some(events).filter(|events| *events > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_has_a_line_and_the_others_one_a_minute() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.due(99), None);
        assert!(throttle.note(100));
        for now in 100..160 {
            assert!(!throttle.note(now));
            assert_eq!(throttle.due(now), None);
        }
        assert_eq!(throttle.due(160), Some(60));
        assert!(!throttle.note(161));
        assert_eq!(throttle.due(219), None);
        assert_eq!(throttle.due(220), Some(1));
        // A quiet minute: from then on, an event is news again.
        assert_eq!(throttle.due(280), None);
        assert!(throttle.note(281));
    }

    #[test]
    fn a_clock_that_was_set_back_delays_no_line() {
        let mut throttle = Throttle::default();
        assert!(throttle.note(10_000));
        assert!(!throttle.note(10_001));
        assert_eq!(throttle.due(100), Some(1));
    }
}
