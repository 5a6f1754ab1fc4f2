//! The form of a file: every part that is drawn or checked, and no other. A part that is not known here is an error with its panel.
//! [`read`] makes a dashboard of it.

mod read;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

pub(super) use self::read::read;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    uid: String,
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    links: Vec<LinkForm>,
    annotations: Option<List<AnnotationForm>>,
    templating: Option<List<VariableForm>>,
    time: Option<Time>,
    refresh: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List<T> {
    list: Vec<T>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Time {
    from: String,
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LinkForm {
    title: String,
    #[serde(default)]
    url: String,
    /// A panel's links have none.
    r#type: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    as_dropdown: Option<bool>,
    keep_time: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AnnotationForm {
    name: String,
    built_in: Option<u8>,
    r#type: Option<String>,
    datasource: Source,
    hide: bool,
    target: Option<Expression>,
    #[serde(default)]
    title_format: String,
    #[serde(default)]
    text_format: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub(super) r#type: String,
    pub(super) uid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    expr: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VariableForm {
    name: String,
    #[serde(default)]
    label: String,
    #[serde(default)]
    description: String,
    query: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PanelForm {
    id: u32,
    r#type: String,
    title: String,
    #[serde(default)]
    description: String,
    grid_pos: Place,
    #[serde(default)]
    links: Vec<LinkForm>,
    #[serde(default)]
    targets: Vec<Value>,
    #[serde(default)]
    field_config: FieldConfig,
    #[serde(default)]
    options: Options,
    #[serde(default)]
    transformations: Vec<Transformation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    h: u32,
    w: u32,
    x: u32,
    y: u32,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldConfig {
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    overrides: Vec<Override>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    unit: Option<String>,
    decimals: Option<usize>,
    min: Option<f64>,
    max: Option<f64>,
    color: Option<ColourForm>,
    thresholds: Option<Thresholds>,
    #[serde(default)]
    mappings: Vec<Mapping>,
    #[serde(default)]
    custom: Custom,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ColourForm {
    mode: String,
    fixed_color: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Thresholds {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    color: String,
    /// Everything below the next step, where absent.
    value: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    options: BTreeMap<String, Word>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    text: String,
    color: String,
    #[serde(rename = "index")]
    _index: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Custom {
    draw_style: Option<String>,
    fill_opacity: Option<u32>,
    line_interpolation: Option<String>,
    stacking: Option<Mode>,
    thresholds_style: Option<Mode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mode {
    mode: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Override {
    matcher: Matcher,
    properties: Vec<Property>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Matcher {
    id: String,
    options: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Property {
    id: String,
    value: Value,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Options {
    legend: Option<Legend>,
    graph_mode: Option<String>,
    text_mode: Option<String>,
    show_value: Option<String>,
    #[serde(default)]
    sort_by: Vec<SortBy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Legend {
    placement: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SortBy {
    desc: bool,
    display_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transformation {
    options: Organize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Organize {
    #[serde(default)]
    exclude_by_name: BTreeMap<String, bool>,
    #[serde(default)]
    index_by_name: BTreeMap<String, u32>,
    #[serde(default)]
    rename_by_name: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Target {
    #[serde(default)]
    expr: String,
    legend_format: Option<String>,
    #[serde(default)]
    instant: bool,
    #[serde(default)]
    range: bool,
    format: Option<String>,
    datasource: Option<Source>,
}
