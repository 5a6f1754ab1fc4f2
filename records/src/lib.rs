//! Records on their way into Kafka and out of it: the scenarios' generators and totals, the writer with its ledger, the
//! reader, what consumers add up, and how records look in a terminal.
//!
//! A crate of its own because it is optimised in every build, also in the one that a fresh machine compiles: these loops see every
//! record. Nothing here waits for a service, and nothing knows the lab.

pub mod reader;
pub mod results;
pub mod scenarios;
pub mod text;
pub mod writer;
