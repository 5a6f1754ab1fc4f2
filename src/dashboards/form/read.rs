//! From the form of a file to a dashboard, or to the part that would not be drawn.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    AnnotationForm, ColourForm, Custom, Defaults, FieldConfig, File, LinkForm, Mode, Options, Override,
    PanelForm, Place, Property, Target, Transformation, VariableForm,
};
use crate::dashboards::{
    Annotation, Colour, Columns, Dashboard, Field, Lines, Link, Look, MAY_BE_EMPTY, Panel, Query, Row,
    Search, Unit, Variable, fixed,
};

/// A file as a dashboard. `sources`: the data sources of Elasticsearch, uid → indices.
pub(in crate::dashboards) fn read(text: &str, sources: &BTreeMap<String, String>) -> Result<Dashboard> {
    let mut json: Value = serde_json::from_str(text).context("no JSON")?;
    let panels = json.as_object_mut().and_then(|file| file.remove("panels")).context("no panels")?;
    fixed::take(&mut json, fixed::DASHBOARD)?;
    let file: File = serde_json::from_value(json).context("the dashboard itself")?;
    let variables = file.templating.into_iter().flat_map(|t| t.list).map(variable).collect::<Result<_>>()?;
    let annotations = file.annotations.into_iter().flat_map(|a| a.list);
    let mut rows = vec![Row { title: String::new(), panels: Vec::new() }];
    let panels: Vec<Value> = serde_json::from_value(panels).context("panels")?;
    let mut before = (0, 0);
    for mut form in panels {
        let title = form["title"].as_str().context("a panel without a title")?.to_owned();
        let found = panel(&mut form, sources).with_context(|| title.clone())?;
        let (place, found) = found;
        // The order in the file is that of reading: the grid is filled in it.
        if (place.y, place.x) < before {
            bail!("{title} stands before the panel above it in the file");
        }
        before = (place.y, place.x);
        match (found, rows.last_mut()) {
            (Some(panel), Some(row)) => row.panels.push(panel),
            _ => rows.push(Row { title, panels: Vec::new() }),
        }
    }
    rows.retain(|row| !row.panels.is_empty());
    if rows.is_empty() {
        bail!("no panels");
    }
    Ok(Dashboard {
        uid: file.uid,
        title: file.title,
        description: file.description,
        tags: file.tags,
        links: file.links.into_iter().map(link).collect::<Result<_>>()?,
        variables,
        annotations: annotations.filter_map(|form| annotation(form).transpose()).collect::<Result<_>>()?,
        time: file.time.map_or_else(|| ("now-15m".to_owned(), "now".to_owned()), |time| (time.from, time.to)),
        refresh: file.refresh.as_deref().map_or(Ok(5), seconds)?,
        rows,
    })
}

fn seconds(text: &str) -> Result<u64> {
    let number = text.strip_suffix('s').and_then(|number| number.parse().ok());
    number.with_context(|| format!("refresh {text:?}: only seconds are drawn"))
}

fn link(form: LinkForm) -> Result<Link> {
    match (form.r#type.as_deref(), form.as_dropdown, form.keep_time) {
        (None, None, None) | (Some("link"), Some(false), Some(false)) if form.tags.is_empty() => {
            Ok(Link::Page(form.title, form.url))
        }
        (Some("dashboards"), Some(true), Some(true)) if form.url.is_empty() => match form.tags.as_slice() {
            [tag] => Ok(Link::Tag(tag.clone())),
            tags => bail!("a link to the dashboards of {} tags is not drawn", tags.len()),
        },
        _ => bail!("the link {:?} is not drawn", form.title),
    }
}

/// Grafana's own kind, which people write by hand and is hidden, is none.
fn annotation(form: AnnotationForm) -> Result<Option<Annotation>> {
    if form.built_in == Some(1) && form.hide && form.r#type.as_deref() == Some("dashboard") {
        return Ok(None);
    }
    if form.hide || form.datasource.r#type != "prometheus" || form.datasource.uid != "prometheus" {
        bail!("the annotation {:?} is not drawn", form.name);
    }
    let expression = form.target.context("an annotation without an expression")?.expr;
    Ok(Some(Annotation { name: form.name, expression, title: form.title_format, text: form.text_format }))
}

fn variable(form: VariableForm) -> Result<Variable> {
    let query = form.query.as_str().or_else(|| form.query["query"].as_str()).unwrap_or_default();
    let inside = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
    let inside = inside
        .with_context(|| format!("${}: only label_values(…) is checked, this is {query:?}", form.name))?;
    let (selector, label) = match inside.rsplit_once(',') {
        Some((selector, label)) => (Some(selector.trim().to_owned()), label.trim().to_owned()),
        None => (None, inside.trim().to_owned()),
    };
    let title = if form.label.is_empty() { form.name.clone() } else { form.label };
    Ok(Variable { name: form.name, title, description: form.description, label, selector })
}

/// A panel's place, and the panel; none where it is the heading of a row.
fn panel(json: &mut Value, sources: &BTreeMap<String, String>) -> Result<(Place, Option<Panel>)> {
    // As they stand: their own reader looks at every part of them.
    let searches = json["targets"].as_array().into_iter().flatten();
    let searches: Vec<Search> = searches
        .filter(|target| target["datasource"]["type"] == "elasticsearch")
        .map(|target| Search::parse(target, sources))
        .collect::<Result<_>>()?;
    fixed::take_from_panel(json)?;
    let form: PanelForm = serde_json::from_value(json.take())?;
    if form.r#type == "row" {
        return Ok((form.grid_pos, None));
    }
    let table = form.r#type == "table";
    let queries = form.targets.into_iter().filter(|target| target["datasource"]["type"] != "elasticsearch");
    let queries: Vec<Query> = queries.map(|target| query(target, table)).collect::<Result<_>>()?;
    if queries.is_empty() && searches.is_empty() {
        bail!("no queries");
    }
    let look = look(&form.r#type, &form.field_config, form.options, form.transformations)?;
    let panel = Panel {
        id: form.id,
        title: form.title,
        may_be_empty: form.description.contains(MAY_BE_EMPTY),
        description: form.description,
        size: (form.grid_pos.w, form.grid_pos.h),
        links: form.links.into_iter().map(link).collect::<Result<_>>()?,
        queries,
        searches,
        look,
        field: field(form.field_config.defaults)?,
    };
    Ok((form.grid_pos, Some(panel)))
}

fn query(target: Value, table: bool) -> Result<Query> {
    let target: Target = serde_json::from_value(target)?;
    if target.expr.is_empty() {
        bail!("a query without expr");
    }
    if target.datasource.is_some_and(|source| source.r#type != "prometheus") || target.instant == target.range
    {
        bail!("{}: a query is of Prometheus, and either instant or a range", target.expr);
    }
    if (target.format.as_deref() == Some("table")) != table {
        bail!("{}: the format table is for tables, and for them alone", target.expr);
    }
    let legend = target.legend_format.filter(|legend| legend != "__auto");
    Ok(Query { expression: target.expr, legend, instant: target.instant })
}

fn look(
    kind: &str,
    field: &FieldConfig,
    options: Options,
    transformations: Vec<Transformation>,
) -> Result<Look> {
    let custom = &field.defaults.custom;
    Ok(match kind {
        "timeseries" => Look::Lines(lines(custom, &field.overrides, &options)?),
        "stat" => Look::Stat {
            named: one_of("textMode", options.text_mode.as_deref(), "auto", "value_and_name")?,
            spark: one_of("graphMode", options.graph_mode.as_deref(), "none", "area")?,
        },
        "state-timeline" => {
            Look::States { named: !one_of("showValue", options.show_value.as_deref(), "auto", "never")? }
        }
        "table" => Look::Table(columns(options, transformations)?),
        "logs" => Look::Documents,
        other => bail!("a panel of type {other:?} is not drawn"),
    })
}

/// Whether a part is its second value; the first where it is absent.
fn one_of(part: &str, value: Option<&str>, first: &str, second: &str) -> Result<bool> {
    match value {
        None => Ok(false),
        Some(value) if value == first => Ok(false),
        Some(value) if value == second => Ok(true),
        Some(other) => bail!("{part} {other:?} is not drawn"),
    }
}

fn lines(custom: &Custom, overrides: &[Override], options: &Options) -> Result<Lines> {
    let mode = |mode: &Option<Mode>| mode.as_ref().map(|mode| mode.mode.clone());
    let placement = options.legend.as_ref().map(|legend| legend.placement.as_str());
    Ok(Lines {
        fill: custom.fill_opacity.unwrap_or_default(),
        steps: one_of("lineInterpolation", custom.line_interpolation.as_deref(), "linear", "stepAfter")?,
        bars: one_of("drawStyle", custom.draw_style.as_deref(), "line", "bars")?,
        stacked: one_of("stacking", mode(&custom.stacking).as_deref(), "none", "normal")?,
        limits: one_of("thresholdsStyle", mode(&custom.thresholds_style).as_deref(), "off", "dashed")?,
        legend_beside: one_of("legend.placement", placement, "bottom", "right")?,
        dashed: overrides.iter().map(dashed).collect::<Result<_>>()?,
    })
}

/// The end of the names of series that are dashed: the one kind of override that is drawn.
fn dashed(of: &Override) -> Result<String> {
    let plain = |end: &&str| end.chars().all(|c| c.is_alphanumeric() || c == ' ');
    let end = of.matcher.options.strip_prefix('/').and_then(|name| name.strip_suffix("$/")).filter(plain);
    let is_dash = |property: &Property| {
        property.id == "custom.lineStyle"
            && property.value == serde_json::json!({ "dash": [10, 10], "fill": "dash" })
    };
    match end {
        Some(end) if of.matcher.id == "byRegexp" && of.properties.iter().all(is_dash) => Ok(end.to_owned()),
        _ => bail!("the override of {} is not drawn", of.matcher.options),
    }
}

fn columns(options: Options, transformations: Vec<Transformation>) -> Result<Columns> {
    if options.sort_by.len() > 1 || transformations.len() > 1 {
        bail!("a table is sorted by one column, and organised once");
    }
    let sorted = options.sort_by.into_iter().next().map(|by| (by.display_name, by.desc));
    let Some(Transformation { options: organize }) = transformations.into_iter().next() else {
        return Ok(Columns { sorted, ..Columns::default() });
    };
    let mut order: Vec<_> = organize.index_by_name.into_iter().collect();
    order.sort_by_key(|(_, place)| *place);
    Ok(Columns {
        excluded: organize
            .exclude_by_name
            .into_iter()
            .filter(|(_, out)| *out)
            .map(|(name, _)| name)
            .collect(),
        order: order.into_iter().map(|(name, _)| name).collect(),
        names: organize.rename_by_name,
        sorted,
    })
}

fn field(defaults: Defaults) -> Result<Field> {
    let colour = match defaults.color {
        None => Colour::Series,
        Some(ColourForm { mode, fixed_color }) => match (mode.as_str(), fixed_color) {
            ("palette-classic", None) => Colour::Series,
            ("thresholds", None) => Colour::Thresholds,
            ("fixed", Some(colour)) => Colour::Always(known(colour)?),
            (other, _) => bail!("the colour mode {other:?} is not drawn"),
        },
    };
    let steps = defaults.thresholds.into_iter().flat_map(|thresholds| thresholds.steps);
    let words = defaults.mappings.into_iter().flat_map(|mapping| mapping.options);
    Ok(Field {
        unit: defaults.unit.as_deref().map_or(Ok(Unit::None), Unit::parse)?,
        decimals: defaults.decimals,
        min: defaults.min,
        max: defaults.max,
        colour,
        thresholds: steps
            .map(|step| Ok((step.value.unwrap_or(f64::NEG_INFINITY), known(step.color)?)))
            .collect::<Result<_>>()?,
        words: words
            .map(|(number, word)| {
                let number =
                    number.parse().with_context(|| format!("the mapping of {number:?} is not drawn"))?;
                Ok((number, word.text, known(word.color)?))
            })
            .collect::<Result<_>>()?,
    })
}

/// A colour that the style sheet has.
fn known(colour: String) -> Result<String> {
    match colour.as_str() {
        "green" | "orange" | "red" | "blue" => Ok(colour),
        other => bail!("the colour {other:?} is not drawn"),
    }
}
