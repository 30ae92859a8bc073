//! Tests of the chart's dashboard: its structure is Grafana's, its expressions are `PromQL` over metrics that the
//! daemon serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::alerts::promtool;

/// The parts of Grafana's dashboard kind (`kinds/dashboard/dashboard_kind.cue`) that the dashboard uses. An unknown
/// key is an error, as in the kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Dashboard {
    uid: String,
    title: String,
    tags: Vec<String>,
    schema_version: u16,
    #[serde(rename = "version")]
    _version: u32,
    #[serde(rename = "editable")]
    _editable: bool,
    refresh: String,
    timezone: String,
    #[serde(rename = "time")]
    _time: TimeRange,
    #[serde(rename = "annotations")]
    _annotations: List<Value>,
    #[serde(rename = "links")]
    _links: Vec<Value>,
    templating: List<Variable>,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeRange {
    #[serde(rename = "from")]
    _from: String,
    #[serde(rename = "to")]
    _to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List<T> {
    #[serde(rename = "list")]
    entries: Vec<T>,
}

/// The kind leaves other members of a variable to its type.
#[derive(Deserialize)]
struct Variable {
    name: String,
    #[serde(rename = "type")]
    kind: VariableType,
    hide: u8,
    datasource: Option<DataSource>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum VariableType {
    Query,
    Datasource,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct DataSource {
    #[serde(rename = "type")]
    kind: String,
    uid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Panel {
    id: u32,
    #[serde(rename = "type")]
    kind: String,
    title: String,
    description: String,
    datasource: DataSource,
    grid_pos: GridPos,
    field_config: FieldConfig,
    #[serde(rename = "options")]
    _options: PanelOptions,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GridPos {
    h: u32,
    w: u32,
    x: u32,
    y: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldConfig {
    defaults: FieldDefaults,
    #[serde(rename = "overrides")]
    _overrides: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldDefaults {
    unit: String,
    #[serde(rename = "min")]
    _min: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PanelOptions {
    #[serde(rename = "legend")]
    _legend: Legend,
    #[serde(rename = "tooltip")]
    _tooltip: Tooltip,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Legend {
    #[serde(rename = "displayMode")]
    _display_mode: LegendMode,
    #[serde(rename = "placement")]
    _placement: Placement,
    #[serde(rename = "calcs")]
    _calcs: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LegendMode {
    List,
    Table,
    Hidden,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Placement {
    Bottom,
    Right,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tooltip {
    #[serde(rename = "mode")]
    _mode: TooltipMode,
    #[serde(rename = "sort")]
    _sort: SortOrder,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TooltipMode {
    Single,
    Multi,
    None,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum SortOrder {
    Asc,
    Desc,
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Target {
    ref_id: String,
    datasource: DataSource,
    expr: String,
    legend_format: String,
}

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;
/// The oldest version of the format that Grafana 10 does not migrate.
const SCHEMA_VERSION: u16 = 36;
/// Units that Grafana knows and the dashboard uses.
const UNITS: [&str; 4] = ["short", "ops", "s", "bytes"];

fn dashboard() -> Dashboard {
    serde_json::from_str(&text("../install/manifests/chart/files/dashboard.json")).unwrap()
}

/// A file, by its path relative to the daemon's crate.
fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The expression as Prometheus receives it.
fn expanded(expression: &str) -> String {
    expression
        .replace("$__rate_interval", "5m")
        .replace("$instance", ".*")
}

#[test]
fn dashboard_has_grafanas_structure() {
    let Dashboard {
        uid,
        title,
        tags,
        schema_version,
        refresh,
        timezone,
        templating,
        panels,
        ..
    } = dashboard();
    assert!((8..=40).contains(&uid.len()) && !title.is_empty() && !tags.is_empty());
    assert!(schema_version >= SCHEMA_VERSION);
    assert!(refresh.ends_with(['s', 'm']) && ["browser", "utc"].contains(&timezone.as_str()));

    let source = DataSource {
        kind: "prometheus".into(),
        uid: "${datasource}".into(),
    };
    let variables = templating.entries;
    assert!(
        (variables.iter())
            .any(|one| one.name == "datasource" && one.kind == VariableType::Datasource)
    );
    for Variable {
        name,
        kind,
        hide,
        datasource,
    } in &variables
    {
        assert!(*hide <= 2, "{name}");
        if *kind == VariableType::Query {
            assert_eq!(datasource.as_ref(), Some(&source), "{name}");
        }
    }

    let mut ids = BTreeSet::new();
    let mut cells = BTreeMap::new();
    for panel in &panels {
        let title = &panel.title;
        assert!(
            ids.insert(panel.id) && panel.id > 0,
            "{title}: id {}",
            panel.id
        );
        assert_eq!((&*panel.kind, &panel.datasource), ("timeseries", &source));
        assert!(!title.is_empty() && !panel.description.is_empty());
        let unit = &*panel.field_config.defaults.unit;
        assert!(UNITS.contains(&unit), "{title}: {unit}");
        let GridPos { h, w, x, y } = panel.grid_pos;
        assert!(h > 0 && w > 0 && x + w <= COLUMNS, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            let other = cells.insert(cell, title);
            assert_eq!(other, None, "{title} covers another panel");
        }
        check_targets(panel, &source);
    }
}

fn check_targets(panel: &Panel, source: &DataSource) {
    let mut names = BTreeSet::new();
    assert!(!panel.targets.is_empty(), "{}", panel.title);
    for target in &panel.targets {
        assert!(names.insert(&target.ref_id), "{}", panel.title);
        assert_eq!(&target.datasource, source, "{}", panel.title);
        assert!(!target.legend_format.is_empty(), "{}", panel.title);
        // A panel of the instances that the reader chose.
        assert!(target.expr.contains("instance=~\"$instance\""));
        let rest = target.expr.replace("$instance", "");
        let rest = rest.replace("$__rate_interval", "");
        assert!(!rest.contains('$'), "unknown variable: {}", target.expr);
    }
}

/// Prometheus parses every expression, and the reference has every metric in it. The reference lists what the daemon
/// serves.
#[test]
fn dashboards_expressions_match_the_reference() {
    let panels = dashboard().panels;
    let expressions: Vec<_> = (panels.iter())
        .flat_map(|panel| &panel.targets)
        .map(|target| expanded(&target.expr))
        .collect();
    let rule = |(index, expr): (usize, &String)| json!({ "record": format!("panel:{index}"), "expr": expr });
    let rules: Vec<_> = expressions.iter().enumerate().map(rule).collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.json");
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&file, groups.to_string()).unwrap();
    let output = promtool(&["check", "rules", file.to_str().unwrap()], "");
    assert!(output.status.success(), "{output:?}");

    let page = text("../docs/reference/metrics.md");
    let kinds: BTreeMap<_, _> = (page.lines())
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| Some((name, rest.split_once(' ')?.0)))
        .collect();
    for expression in &expressions {
        let words = expression.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
        let is_metric = |word: &&str| word.starts_with("sluice_") || word.starts_with("process_");
        for name in words.filter(is_metric) {
            let (family, expected) = match name.strip_suffix("_bucket") {
                Some(family) => (family, "histogram"),
                None if name.ends_with("_total") => (name, "counter"),
                None => (name, "gauge"),
            };
            assert_eq!(kinds.get(family), Some(&expected), "{name}: {expression}");
        }
    }
}
