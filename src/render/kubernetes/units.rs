//! What runs as one workload: a service, or a group of services that differ in their number alone.

use anyhow::{Context, Result, bail};

use crate::topology::{LabFile, Plan, Ready, Service, ServiceSpec};

/// A workload.
pub(super) struct Unit<'a> {
    /// Its name: the service's, or what the names of a group's members begin with (`kafka-broker`).
    pub(super) name: String,
    pub(super) spec: &'a ServiceSpec,
    /// One, or the members in the order of their numbers.
    pub(super) services: Vec<&'a Service>,
    /// The number of the first member, where it is a group.
    pub(super) first: Option<u32>,
    /// Services that end, which its pods run before all else: they make files for it, or what it stands on.
    pub(super) before: Vec<&'a Service>,
    /// Services that answer before it starts.
    pub(super) waits: Vec<&'a Service>,
}

impl Unit<'_> {
    pub(super) fn one(&self) -> &Service {
        self.services[0]
    }

    /// The services' names.
    pub(super) fn names(&self) -> Vec<&str> {
        self.services.iter().map(|service| service.name.as_str()).collect()
    }

    /// It runs once and ends.
    pub(super) fn ends(&self) -> bool {
        self.one().ready == Ready::Completed
    }

    /// Its settings hold its own name: it takes connections at that address, or tells others to come there.
    pub(super) fn names_itself(&self) -> bool {
        let texts = self.one().command.iter().chain(self.one().environment.values());
        texts.into_iter().any(|text| holds(text, &self.name))
    }

    /// It has data of its own, which outlive its pods.
    pub(super) fn keeps(&self) -> bool {
        self.spec.volumes.iter().any(|volume| !volume.shared)
    }
}

/// The workloads of a lab, in the order of the plan. What makes files for others is none: their pods do it themselves.
///
/// # Errors
/// A group whose members are not counted on by one.
pub(super) fn of<'a>(file: &'a LabFile, plan: &'a Plan) -> Result<Vec<Unit<'a>>> {
    let mut units: Vec<Unit<'a>> = Vec::new();
    for service in &plan.services {
        let spec = &file.services[&service.group];
        if writes_for_others(plan, service) {
            continue;
        }
        if let Some(group) = units.iter_mut().find(|u| u.first.is_some() && u.one().group == service.group) {
            let (stem, number) = numbered(&service.name)?;
            let next = group.first.unwrap_or_default() + u32::try_from(group.services.len())?;
            if stem != group.name || number != next {
                bail!("{}: {}-{next} was expected next in its group", service.name, group.name);
            }
            group.services.push(service);
            continue;
        }
        let (name, first) = if spec.members.len() < 2 {
            (service.name.clone(), None)
        } else {
            let (stem, number) = numbered(&service.name)?;
            (stem.to_owned(), Some(number))
        };
        let awaited = |service: &'a Service, completes: bool| {
            let waits = service.waits_for.iter().filter(move |wait| wait.completes == completes);
            waits.filter_map(|wait| plan.service(&wait.service))
        };
        let before: Vec<&Service> = awaited(service, true).collect();
        // What its pods run first waits for others, too.
        let mut waits: Vec<&Service> = Vec::new();
        for other in before.iter().flat_map(|first| awaited(first, false)).chain(awaited(service, false)) {
            if !waits.iter().any(|known| known.name == other.name) {
                waits.push(other);
            }
        }
        units.push(Unit { name, spec, services: vec![service], first, before, waits });
    }
    Ok(units)
}

/// A name stands in a text, and is no part of a longer one.
fn holds(text: &str, name: &str) -> bool {
    let longer = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + name.len()..].chars().next());
        !before.is_some_and(longer) && !after.is_some_and(longer)
    })
}

fn writes_for_others(plan: &Plan, service: &Service) -> bool {
    plan.services.iter().any(|other| plan.file_writers_for(other).iter().any(|w| w.name == service.name))
}

fn numbered(name: &str) -> Result<(&str, u32)> {
    let split = name.rsplit_once('-').and_then(|(stem, number)| Some((stem, number.parse().ok()?)));
    split.with_context(|| {
        format!("{name}: a member of a group must end with its number, as in kafka-broker-1")
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::alone("spark-master", true)]
    #[case::in_an_address("spark://spark-master:7077", true)]
    #[case::in_a_setting("spark.driver.host=spark-master", true)]
    #[case::longer_before("my-spark-master", false)]
    #[case::longer_after("spark-master-2 spark-master.log", false)]
    fn a_name_is_found_where_it_stands_by_itself(#[case] text: &str, #[case] found: bool) {
        assert_eq!(holds(text, "spark-master"), found);
    }
}
