//! Seeded data sets: record types, generators, and the totals that must come out at the other end. Pure.

pub mod transactions;
