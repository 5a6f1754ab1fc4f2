//! What users do: clicks, purchases, sign-ups, logins, page views, searches, cart actions.

use std::collections::BTreeMap;

use anyhow::Result;
use rand::RngExt;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Defaults;
use crate::scenarios::draw::{self, Run};
use crate::scenarios::transactions::Cents;
use crate::scenarios::{Format, Profile, Sequence};
use crate::writer::{Acks, Ledger, Order, Writer};

/// Kinds, and how many of a hundred events are one.
const KINDS: [(EventKind, u32); 7] = [
    (EventKind::PageView, 35),
    (EventKind::Click, 28),
    (EventKind::Search, 13),
    (EventKind::CartAction, 10),
    (EventKind::Login, 7),
    (EventKind::Purchase, 5),
    (EventKind::Signup, 2),
];
const USERS: u32 = 500;
const PRODUCTS: u32 = 100;
const QUERIES: [&str; 6] = ["shoes", "lamp", "blue bicycle", "coffee", "headphones", "tent"];

/// What a user did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Clicked on a product.
    Click,
    /// Bought a product.
    Purchase,
    /// Made an account.
    Signup,
    /// Logged in.
    Login,
    /// Looked at a product's page.
    PageView,
    /// Searched.
    Search,
    /// Put a product into the cart.
    CartAction,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserEvent {
    /// UUID.
    pub event_id: String,
    /// What was done.
    pub event_type: EventKind,
    /// `user_1` to `user_500`, with the run's suffix where there is one; the record's key.
    pub user_id: String,
    /// ISO 8601 in UTC, with milliseconds.
    pub timestamp: String,
    /// Where on the site.
    pub page: String,
    /// `product_1` to `product_100`, where it was about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_id: Option<String>,
    /// How many were bought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantity: Option<u32>,
    /// What was paid in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<Cents>,
    /// What was searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// What must come out for one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserTotals {
    /// Events by kind.
    pub events: BTreeMap<EventKind, u64>,
    /// Sum of the purchases.
    pub amount: Cents,
}

impl Default for UserTotals {
    fn default() -> Self {
        Self { events: BTreeMap::new(), amount: Cents(0) }
    }
}

/// A seeded, endless sequence of events.
#[derive(Debug, Clone)]
pub struct UserEvents {
    run: Run,
}

impl UserEvents {
    /// Topic of the records.
    pub const TOPIC: &'static str = "user-events";
    /// The seed's event producer.
    pub const DEFAULTS: Defaults = Defaults {
        profile: Profile {
            name: "events",
            settings: &[
                ("compression.type", "gzip"),
                ("linger.ms", "10"),
                // The seed's 16384 are bytes as Kafka's own client counts them: compressed. This client counts before that.
                ("batch.size", "65536"),
                ("retries", "3"),
            ],
        },
        acks: Acks::All,
        rate: 0.5,
    };

    /// The sequence that an order means.
    pub fn of(order: &Order) -> Self {
        Self { run: Run::new(order.seed, order.run.as_deref()) }
    }
}

impl Sequence for UserEvents {
    type Record = UserEvent;
    /// By user.
    type Totals = BTreeMap<String, UserTotals>;
    type InShort = UserTotals;

    fn record(&self, index: u64, time_ms: i64) -> UserEvent {
        let mut random = self.run.at(index);
        let event_id = draw::uuid(&mut random).to_string();
        let event_type = draw::weighted(&mut random, &KINDS);
        let user = format!("user_{}", random.random_range(1..=USERS));
        let product = format!("product_{}", random.random_range(1..=PRODUCTS));
        let quantity = random.random_range(1..=5_u32);
        let price = random.random_range(199..=19_999_u32);
        let query = QUERIES[random.random_range(0..QUERIES.len())];
        let page = match event_type {
            EventKind::Signup => "/signup".to_owned(),
            EventKind::Login => "/login".to_owned(),
            EventKind::Search => "/search".to_owned(),
            EventKind::CartAction => "/cart".to_owned(),
            EventKind::Purchase => "/checkout".to_owned(),
            EventKind::Click | EventKind::PageView => format!("/products/{product}"),
        };
        let about = !matches!(event_type, EventKind::Signup | EventKind::Login | EventKind::Search);
        let bought = event_type == EventKind::Purchase;
        UserEvent {
            event_id,
            event_type,
            user_id: self.run.own(&user),
            timestamp: draw::timestamp(time_ms),
            page,
            product_id: about.then_some(product),
            quantity: bought.then_some(quantity),
            amount: bought.then(|| Cents((price * quantity).into())),
            query: (event_type == EventKind::Search).then(|| query.to_owned()),
        }
    }

    fn topic(&self, _: Format) -> &'static str {
        Self::TOPIC
    }

    fn id(record: &UserEvent) -> &str {
        &record.event_id
    }

    fn key(record: &UserEvent) -> &str {
        &record.user_id
    }

    fn add(totals: &mut Self::Totals, record: &UserEvent) {
        let user = totals.entry(record.user_id.clone()).or_default();
        *user.events.entry(record.event_type).or_default() += 1;
        user.amount.0 += record.amount.map_or(0, |amount| amount.0);
    }

    fn write(
        self,
        writer: Writer,
        order: Order,
        encoder: Option<AvroEncoder>,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<Result<Ledger<Self::Totals>>> {
        writer.carry_out(order, self, encoder, stop)
    }

    /// Of all users together.
    fn in_short(totals: &Self::Totals) -> UserTotals {
        let mut all = UserTotals::default();
        for user in totals.values() {
            all.amount.0 += user.amount.0;
            user.events.iter().for_each(|(kind, count)| *all.events.entry(*kind).or_default() += count);
        }
        all
    }
}
