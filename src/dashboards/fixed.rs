//! Parts of the files that are alike in all of them: they say how Grafana draws, and the console draws so without being told. They
//! are taken out before a file is read, so that whatever else a file says must be understood.

use anyhow::{Result, bail};
use serde_json::Value;

/// Where in a dashboard, without its panels, and what stands there as JSON; nothing where it may be anything.
pub(super) const DASHBOARD: &[(&str, &str)] = &[
    ("editable", "true"),
    ("fiscalYearStartMonth", "0"),
    ("graphTooltip", "1"),
    ("preload", "false"),
    ("schemaVersion", "41"),
    ("timepicker", "{}"),
    ("timezone", r#""browser""#),
    ("version", ""),
    ("links[].icon", ""),
    ("links[].includeVars", "false"),
    ("links[].targetBlank", ""),
    ("links[].tooltip", ""),
    ("templating.list[].current", ""),
    ("templating.list[].datasource", PROMETHEUS),
    ("templating.list[].definition", ""),
    ("templating.list[].includeAll", "true"),
    ("templating.list[].multi", "true"),
    ("templating.list[].options", "[]"),
    ("templating.list[].query.qryType", "1"),
    ("templating.list[].query.refId", ""),
    ("templating.list[].refresh", "2"),
    ("templating.list[].regex", r#""""#),
    ("templating.list[].sort", "1"),
    ("templating.list[].type", r#""query""#),
    ("annotations.list[].enable", "true"),
    ("annotations.list[].iconColor", ""),
    ("annotations.list[].tagKeys", r#""severity""#),
    ("annotations.list[].target.interval", r#""5s""#),
    ("annotations.list[].target.refId", ""),
];

const PROMETHEUS: &str = r#"{"type":"prometheus","uid":"prometheus"}"#;

/// The same of every panel.
const PANEL: &[(&str, &str)] = &[
    // Each query has its own.
    ("datasource", ""),
    ("links[].targetBlank", "true"),
    ("fieldConfig.defaults.thresholds.mode", r#""absolute""#),
    ("fieldConfig.defaults.mappings[].type", r#""value""#),
    ("options.tooltip", ""),
    ("targets[].editorMode", r#""code""#),
    ("targets[].refId", ""),
];

const STAT: &[(&str, &str)] = &[
    ("options.colorMode", r#""background""#),
    ("options.justifyMode", r#""auto""#),
    ("options.orientation", r#""auto""#),
    ("options.percentChangeColorMode", r#""standard""#),
    ("options.reduceOptions", r#"{"calcs":["lastNotNull"],"fields":"","values":false}"#),
    ("options.showPercentChange", "false"),
    ("options.wideLayout", "true"),
];

const LINES: &[(&str, &str)] = &[
    ("fieldConfig.defaults.custom.lineWidth", "1"),
    ("fieldConfig.defaults.custom.showPoints", r#""never""#),
    ("fieldConfig.defaults.custom.spanNulls", "false"),
    ("fieldConfig.defaults.custom.stacking.group", r#""A""#),
    ("options.legend.calcs", r#"["lastNotNull","max"]"#),
    ("options.legend.displayMode", r#""table""#),
    ("options.legend.showLegend", "true"),
    ("options.legend.sortBy", r#""Last *""#),
    ("options.legend.sortDesc", "true"),
];

const STATES: &[(&str, &str)] = &[
    ("fieldConfig.defaults.custom.fillOpacity", "70"),
    ("fieldConfig.defaults.custom.lineWidth", "0"),
    ("fieldConfig.defaults.custom.spanNulls", "false"),
    ("options.alignValue", r#""left""#),
    ("options.legend", r#"{"displayMode":"list","placement":"bottom","showLegend":true}"#),
    ("options.mergeValues", "true"),
    ("options.rowHeight", "0.9"),
];

const TABLE: &[(&str, &str)] = &[
    ("fieldConfig.defaults.custom.align", r#""auto""#),
    ("fieldConfig.defaults.custom.cellOptions.type", r#""auto""#),
    ("fieldConfig.defaults.custom.inspect", "false"),
    ("options.cellHeight", r#""sm""#),
    ("options.frameIndex", "0"),
    ("options.showHeader", "true"),
    ("transformations[].id", r#""organize""#),
];

const DOCUMENTS: &[(&str, &str)] = &[
    ("options.dedupStrategy", r#""none""#),
    ("options.enableLogDetails", "true"),
    ("options.prettifyLogMessage", "false"),
    ("options.showCommonLabels", "false"),
    ("options.showLabels", "false"),
    ("options.showTime", "true"),
    ("options.sortOrder", r#""Descending""#),
    ("options.wrapLogMessage", "true"),
];

const ROW: &[(&str, &str)] = &[("collapsed", "false"), ("panels", "[]")];

/// Takes out of a panel what all of its kind have alike.
///
/// # Errors
/// One of these parts is another than it is drawn.
pub(super) fn take_from_panel(panel: &mut Value) -> Result<()> {
    let of_kind = match panel["type"].as_str().unwrap_or_default() {
        "stat" => STAT,
        "timeseries" => LINES,
        "state-timeline" => STATES,
        "table" => TABLE,
        "logs" => DOCUMENTS,
        "row" => ROW,
        other => bail!("a panel of type {other:?} is not drawn"),
    };
    take(panel, PANEL)?;
    take(panel, of_kind)
}

/// Takes parts out, and then what is empty.
///
/// # Errors
/// As [`take_from_panel`].
pub(super) fn take(of: &mut Value, parts: &[(&str, &str)]) -> Result<()> {
    for (path, expected) in parts {
        let expected = (!expected.is_empty()).then(|| serde_json::from_str::<Value>(expected)).transpose()?;
        take_one(of, path, expected.as_ref(), path)?;
    }
    prune(of);
    Ok(())
}

fn take_one(of: &mut Value, path: &str, expected: Option<&Value>, whole: &str) -> Result<()> {
    let (step, rest) = path.split_once('.').map_or((path, None), |(step, rest)| (step, Some(rest)));
    let (key, each) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
    let Some(object) = of.as_object_mut() else { return Ok(()) };
    let Some(rest) = rest else {
        if let (Some(found), Some(expected)) = (object.get(key), expected)
            && found != expected
        {
            bail!("{whole} is {found}: only {expected} is drawn");
        }
        object.remove(key);
        return Ok(());
    };
    let Some(inner) = object.get_mut(key) else { return Ok(()) };
    if each {
        inner.as_array_mut().into_iter().flatten().try_for_each(|one| take_one(one, rest, expected, whole))
    } else {
        take_one(inner, rest, expected, whole)
    }
}

/// Takes out objects and lists that are empty.
fn prune(of: &mut Value) {
    let empty = |value: &Value| {
        value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
    };
    match of {
        Value::Object(object) => {
            object.values_mut().for_each(prune);
            object.retain(|_, value| !empty(value));
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_drawn_anyway_is_taken_out_and_nothing_else() {
        let mut panel = json!({
            "type": "row", "collapsed": false, "panels": [], "title": "T", "datasource": { "uid": "x" },
            "targets": [{ "refId": "A", "expr": "up" }, { "editorMode": "code", "hide": true }],
            "options": { "tooltip": { "mode": "multi" } },
        });
        take_from_panel(&mut panel).unwrap();
        assert_eq!(
            panel,
            json!({ "type": "row", "title": "T", "targets": [{ "expr": "up" }, { "hide": true }] })
        );
    }

    #[test]
    fn another_value_is_not_drawn() {
        let mut panel = json!({ "type": "stat", "options": { "colorMode": "value" } });
        let said = format!("{:#}", take_from_panel(&mut panel).unwrap_err());
        assert_eq!(said, r#"options.colorMode is "value": only "background" is drawn"#);
        assert!(take_from_panel(&mut json!({ "type": "gauge" })).is_err());
    }
}
