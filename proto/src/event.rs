//! What has happened to an object, for those who look into it later: the last few things, each with how often it has
//! happened in a row.

use crate::units::Timestamp;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// One word, such as `Scheduled`; one that a newer replica knows, too.
    pub reason: String,
    /// For a person, of the last time; empty: nothing to say.
    pub message: String,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub count: u32,
}

impl Event {
    /// Of one object: all that happens to a sandbox in a life with some moves.
    pub const KEPT: usize = 20;
    /// Bytes of a message: an object is read and written with its events.
    pub const LONGEST_MESSAGE: usize = 256;

    /// Adds what has happened; the oldest goes where there are too many. The same again is counted.
    pub fn note(events: &mut Vec<Self>, reason: &str, message: &str, now: Timestamp) {
        let mut ends = (0..=Self::LONGEST_MESSAGE.min(message.len())).rev();
        let end = ends.find(|end| message.is_char_boundary(*end));
        let message = &message[..end.unwrap_or_default()];
        if let Some(last) = events.last_mut().filter(|last| last.reason == reason) {
            message.clone_into(&mut last.message);
            last.last_at = now;
            last.count = last.count.saturating_add(1);
            return;
        }
        if events.len() >= Self::KEPT {
            events.drain(..=events.len() - Self::KEPT);
        }
        events.push(Self {
            reason: reason.to_owned(),
            message: message.to_owned(),
            first_at: now,
            last_at: now,
            count: 1,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_again_is_counted_and_the_oldest_goes() {
        let mut events = Vec::new();
        for n in 0..3 {
            Event::note(&mut events, "Waiting", &format!("for {n}"), Timestamp(n));
        }
        let expected = Event {
            reason: "Waiting".to_owned(),
            message: "for 2".to_owned(),
            first_at: Timestamp(0),
            last_at: Timestamp(2),
            count: 3,
        };
        assert_eq!(events, [expected]);
        for n in 0..40 {
            Event::note(&mut events, &format!("r{n}"), "", Timestamp(n));
        }
        assert_eq!(events.len(), Event::KEPT);
        assert_eq!((&*events[0].reason, &*events[19].reason), ("r20", "r39"));
        Event::note(&mut events, "long", &"\u{e9}".repeat(300), Timestamp(0));
        assert_eq!(events[19].message.len(), Event::LONGEST_MESSAGE);
    }
}
