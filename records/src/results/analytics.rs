//! What users did and bought: `analytics-group` over user-events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Figure, Results, entry, joined, name_of, number};
use crate::scenarios::events::{EventKind, UserEvents};
use crate::scenarios::transactions::Cents;

/// Results of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Analytics {
    /// By user.
    pub users: BTreeMap<String, UserResults>,
    /// Records that are no events.
    pub malformed: u64,
}

/// What one user did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserResults {
    /// Events by kind.
    pub events: BTreeMap<EventKind, u64>,
    /// What all purchases cost.
    pub amount: Cents,
    /// Purchases by somebody who had put something into the cart since the purchase before.
    pub from_cart: u64,
    /// Whether something was put into the cart since the last purchase.
    pub cart: bool,
}

impl Default for UserResults {
    fn default() -> Self {
        Self { events: BTreeMap::new(), amount: Cents(0), from_cart: 0, cart: false }
    }
}

/// What counts of a record; other fields may be there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    user_id: String,
    event_type: EventKind,
    amount: Option<Cents>,
}

/// No purchase costs more: ten million million. A sum of these is exact.
const HIGHEST: Cents = Cents(1_000_000_000_000_000);

fn event(record: &[u8]) -> Result<Event, String> {
    let event: Event = serde_json::from_slice(record).map_err(|error| error.to_string())?;
    match event.amount {
        Some(amount) if amount > HIGHEST => Err(format!("an amount of {amount}, the highest is {HIGHEST}")),
        _ => Ok(event),
    }
}

impl UserResults {
    fn add(&mut self, event: &Event) {
        *self.events.entry(event.event_type).or_default() += 1;
        match event.event_type {
            EventKind::CartAction => self.cart = true,
            EventKind::Purchase => {
                self.from_cart += u64::from(std::mem::take(&mut self.cart));
                let amount = event.amount.map_or(0, |amount| amount.0);
                self.amount.0 = self.amount.0.saturating_add(amount);
            }
            _ => {}
        }
    }
}

impl Results for Analytics {
    type Settings = ();

    const GROUP: &'static str = "analytics-group";
    const TOPIC: &'static str = UserEvents::TOPIC;
    const BATCH: usize = 100;
    const METRICS: &'static [(&'static str, &'static str)] = &[
        ("analytics_events", "Events by kind"),
        ("analytics_users", "Users that did something"),
        ("analytics_revenue", "Sum of all purchases"),
        ("analytics_purchases_from_cart", "Purchases by somebody with something in the cart"),
        ("analytics_malformed", "Records that are no events"),
    ];

    fn add(&mut self, (): &(), record: &[u8], _: i64) -> Result<Option<String>, String> {
        match event(record) {
            Ok(event) => {
                entry(&mut self.users, &event.user_id).add(&event);
                Ok(None)
            }
            Err(error) => {
                self.malformed += 1;
                Err(error)
            }
        }
    }

    fn join(&mut self, other: Self) {
        self.malformed += other.malformed;
        for (name, user) in other.users {
            let known = self.users.entry(name).or_default();
            joined(&mut known.events, user.events);
            known.amount.0 = known.amount.0.saturating_add(user.amount.0);
            known.from_cart += user.from_cart;
            known.cart |= user.cart;
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "an amount for a chart; the results have it exactly")]
    fn figures(&self) -> Vec<Figure> {
        let mut events: BTreeMap<EventKind, u64> = BTreeMap::new();
        let (mut amount, mut from_cart) = (0_u128, 0);
        for user in self.users.values() {
            joined(&mut events, user.events.clone());
            amount = amount.saturating_add(user.amount.0);
            from_cart += user.from_cart;
        }
        let plain = |metric, value| Figure { metric, labels: Vec::new(), value };
        let of_kind = |(kind, count): (EventKind, u64)| Figure {
            metric: "analytics_events",
            labels: vec![("event_type", name_of(kind))],
            value: number(count),
        };
        let mut figures: Vec<Figure> = events.into_iter().map(of_kind).collect();
        figures.push(plain("analytics_users", number(self.users.len() as u64)));
        figures.push(plain("analytics_revenue", amount as f64 / 100.0));
        figures.push(plain("analytics_purchases_from_cart", number(from_cart)));
        figures.push(plain("analytics_malformed", number(self.malformed)));
        figures
    }
}
