//! The notifications that are kept: the newest, within a bound of number and of bytes.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::value::RawValue;

use super::slack::{Payload, Status};

/// How many are kept.
pub(super) const NUMBER: usize = 1000;
/// Bytes of payload that are kept: 1000 of the largest would be a gigabyte.
const BYTES: usize = 8 << 20;

/// One notification.
#[derive(Debug, Serialize)]
pub(super) struct Notification {
    pub(super) id: u64,
    /// RFC 3339, UTC.
    pub(super) received: String,
    pub(super) status: Status,
    /// As it came.
    pub(super) payload: Box<RawValue>,
}

/// The newest notifications, oldest first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    notifications: VecDeque<Notification>,
    bytes: usize,
    last: u64,
}

impl Kept {
    /// Keeps one more; gives its number and its status, or says why the body is no payload of Slack's.
    pub(super) fn add(&mut self, body: &[u8], received: String) -> Result<(u64, Status), String> {
        let status = Payload::read(body)?.status();
        let payload: Box<RawValue> =
            serde_json::from_slice(body).map_err(|e| format!("invalid_payload: {e}"))?;
        self.last += 1;
        self.bytes += payload.get().len();
        self.notifications.push_back(Notification { id: self.last, received, status, payload });
        while self.notifications.len() > NUMBER || self.bytes > BYTES {
            let Some(oldest) = self.notifications.pop_front() else { break };
            self.bytes -= oldest.payload.get().len();
        }
        Ok((self.last, status))
    }

    /// Those with a number above `id`, oldest first.
    pub(super) fn after(&self, id: u64) -> impl DoubleEndedIterator<Item = &Notification> {
        let from = self.notifications.partition_point(|n| n.id <= id);
        self.notifications.range(from..)
    }

    /// Number of the newest one; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(kept: &mut Kept, text: &str) -> Result<(u64, Status), String> {
        kept.add(serde_json::json!({ "text": text }).to_string().as_bytes(), String::new())
    }

    #[test]
    fn the_newest_thousand_are_kept_and_numbers_grow() {
        let mut kept = Kept::default();
        for n in 1..=1100 {
            assert_eq!(add(&mut kept, "x").unwrap().0, n);
        }
        let ids: Vec<u64> = kept.after(0).map(|n| n.id).collect();
        assert_eq!(ids, (101..=1100).collect::<Vec<_>>());
        assert_eq!(kept.after(1098).map(|n| n.id).collect::<Vec<_>>(), [1099, 1100]);
        assert_eq!(kept.after(u64::MAX).count(), 0);
    }

    #[test]
    fn large_ones_leave_room_by_bytes() {
        let mut kept = Kept::default();
        let large = "x".repeat(1 << 20);
        for _ in 0..40 {
            add(&mut kept, &large).unwrap();
        }
        assert_eq!(kept.after(0).count(), 7, "8 MiB hold 7 payloads of a little more than 1 MiB");
        add(&mut kept, "small").unwrap();
        assert_eq!((kept.after(0).count(), kept.last()), (8, 41));
    }

    #[test]
    fn what_is_refused_takes_no_number() {
        let mut kept = Kept::default();
        add(&mut kept, "").unwrap_err();
        assert_eq!((kept.last(), add(&mut kept, "x").unwrap().0), (0, 1));
    }
}
