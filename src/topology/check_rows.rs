//! What is wrong with a row: what it names does not exist, it belongs to no lab, it is there twice.

use std::collections::BTreeSet;

use toml::Spanned;

use super::Instance;
use super::check::Check;
use super::roster::Roster;
use super::rows::{Alert, Command, Fault, Flow, HOST, Step, stations};

impl Check<'_> {
    pub(super) fn rows(&mut self) {
        let labs: Vec<Roster<'_>> =
            self.file.labs.iter().map(|(name, lab)| Roster::of(self.file, name, lab)).collect();
        let mut ids = BTreeSet::new();
        let mut once = |check: &mut Self, kind: &str, id: &Spanned<String>| {
            if !ids.insert(format!("{kind} {}", id.get_ref())) {
                check.say(id, format!("{kind} {:?} is there twice", id.get_ref()));
            }
        };
        for topic in &self.file.topics {
            once(self, "topic", &topic.name);
            if topic.partitions < 1 {
                self.say(&topic.name, format!("topic {:?} needs a partition", topic.name.get_ref()));
            }
            if let Some(scenario) = &topic.scenario {
                let has =
                    |lab: &Roster<'_>| lab.lab.scenarios.iter().any(|s| s.get_ref() == scenario.get_ref());
                if !labs.iter().any(has) {
                    self.say(scenario, format!("no lab has the scenario {:?}", scenario.get_ref()));
                }
            }
        }
        for fault in &self.file.faults {
            once(self, "fault", &fault.name);
            self.fault(fault, &labs);
        }
        for alert in &self.file.alerts {
            once(self, "alert", &alert.name);
            self.alert(alert);
        }
        for flow in &self.file.flows {
            once(self, "flow", &flow.id);
            self.flow(flow, &labs);
        }
        for command in &self.file.commands {
            once(self, "command", &command.id);
            self.command(command, &labs);
        }
    }

    /// Every name exists; and some lab has them all.
    fn belongs(&mut self, what: &str, id: &Spanned<String>, before: usize, has: bool) {
        if self.found.len() == before && !has {
            self.say(id, format!("{what} {:?} belongs to no lab: none has all that it names", id.get_ref()));
        }
    }

    fn flow(&mut self, flow: &Flow, labs: &[Roster<'_>]) {
        let before = self.found.len();
        for at in &flow.path {
            for name in stations(at.get_ref()).filter(|name| *name != HOST) {
                self.must_exist(at, name);
            }
        }
        for other in flow.needs.iter().chain(&flow.breaks) {
            self.must_exist(other, other.get_ref());
        }
        for topic in &flow.topics {
            self.known(topic, "topic", self.file.topics.iter().map(|t| t.name.get_ref()));
        }
        if let Some(fault) = &flow.fault {
            self.known(fault, "fault", self.file.faults.iter().map(|f| f.name.get_ref()));
        }
        if flow.stations().next().is_none() {
            self.say(&flow.id, format!("flow {:?} passes no service", flow.id.get_ref()));
        }
        self.belongs("flow", &flow.id, before, labs.iter().any(|l| l.has_flow(flow)));
    }

    fn command(&mut self, command: &Command, labs: &[Roster<'_>]) {
        let before = self.found.len();
        for other in command.needs.iter().chain(&command.breaks) {
            self.must_exist(other, other.get_ref());
        }
        for line in [&command.run, &command.prints] {
            for name in super::tokens::services_in(line.get_ref()) {
                self.must_exist(line, &name);
            }
        }
        let there: Vec<_> = labs.iter().filter(|l| l.has_command(command)).collect();
        self.belongs("command", &command.id, before, !there.is_empty());
        let lists = super::tokens::Lists::default();
        for roster in there {
            let instance = Instance::documented();
            let scope = super::tokens::Scope { roster, instance: &instance, own: None, lists: &lists };
            for line in [&command.run, &command.prints] {
                if let Err(why) = scope.fill(line.get_ref()) {
                    self.say(line, why);
                }
            }
        }
    }

    fn fault(&mut self, fault: &Fault, labs: &[Roster<'_>]) {
        let before = self.found.len();
        if fault.steps.is_empty() {
            self.say(&fault.name, format!("fault {:?} does nothing", fault.name.get_ref()));
        }
        for name in fault.disturbs() {
            self.must_exist(&fault.name, name);
        }
        for other in &fault.stands_on {
            self.must_exist(other, other.get_ref());
        }
        for step in &fault.steps {
            if let Step::Produce { scenario, .. } = step {
                let known = self.file.topics.iter().filter_map(|t| Some(t.scenario.as_ref()?.get_ref()));
                if !known.clone().any(|k| k == scenario) {
                    self.say(&fault.name, format!("no scenario named {scenario:?}"));
                }
            }
        }
        let alerts = self.file.alerts.iter().map(|a| a.name.get_ref());
        for held in &fault.holds_back {
            self.known(held, "alert", alerts.clone());
        }
        self.belongs("fault", &fault.name, before, labs.iter().any(|l| l.has_fault(fault)));
    }

    fn alert(&mut self, alert: &Alert) {
        if let Some(fault) = &alert.fault {
            self.known(fault, "fault", self.file.faults.iter().map(|f| f.name.get_ref()));
        }
        if alert.fault.is_some() == alert.why.is_some() {
            let name = alert.name.get_ref();
            self.say(&alert.name, format!("alert {name:?} must have either a fault or a why"));
        }
    }
}
