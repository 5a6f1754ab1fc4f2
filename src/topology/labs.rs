//! Which rows belong to which lab: those whose stations it has all. Derived, never written.

use super::file::LabFile;
use super::plan::ALERTS;
use super::roster::Roster;
use super::rows::{Alert, Command, Fault, Flow, Topic};

impl LabFile {
    /// A row that belongs to several labs is proven in the first: the default one, then by name.
    pub fn labs_in_order(&self) -> Vec<&str> {
        let default = self.default_lab.get_ref().as_str();
        let others = self.labs.keys().map(String::as_str).filter(|name| *name != default);
        std::iter::once(default).chain(others).collect()
    }

    /// The flows of a lab.
    pub fn flows_of(&self, lab: &str) -> Vec<&Flow> {
        self.rows_of(lab, &self.flows, Roster::has_flow)
    }

    /// The topics of a lab.
    pub fn topics_of(&self, lab: &str) -> Vec<&Topic> {
        self.rows_of(lab, &self.topics, |roster, topic| roster.has_topic(topic))
    }

    /// The documented command lines of a lab.
    pub fn commands_of(&self, lab: &str) -> Vec<&Command> {
        self.rows_of(lab, &self.commands, Roster::has_command)
    }

    /// What can be broken in a lab.
    pub fn faults_of(&self, lab: &str) -> Vec<&Fault> {
        self.rows_of(lab, &self.faults, Roster::has_fault)
    }

    /// The alerts that a fault of a lab raises.
    pub fn alerts_of(&self, lab: &str) -> Vec<&Alert> {
        self.rows_of(lab, &self.alerts, |roster, alert| {
            let fault = alert.fault.as_ref().and_then(|name| self.fault(name.get_ref()));
            roster.players(ALERTS).next().is_some() && fault.is_some_and(|fault| roster.has_fault(fault))
        })
    }

    /// The labs that have a flow, in order.
    pub fn labs_with(&self, flow: &Flow) -> Vec<&str> {
        let has = |name: &&str| self.flows_of(name).iter().any(|f| f.id.get_ref() == flow.id.get_ref());
        self.labs_in_order().into_iter().filter(has).collect()
    }

    fn rows_of<'a, Row>(
        &'a self,
        lab: &str,
        rows: &'a [Row],
        has: impl Fn(&Roster<'a>, &Row) -> bool,
    ) -> Vec<&'a Row> {
        let Some((name, lab)) = self.labs.get_key_value(lab) else { return Vec::new() };
        let roster = Roster::of(self, name, lab);
        rows.iter().filter(|row| has(&roster, row)).collect()
    }
}
