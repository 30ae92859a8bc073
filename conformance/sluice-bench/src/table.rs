//! The report in Markdown.

use crate::{
    check::Check,
    churn,
    control_plane::ControlPlane,
    growth::Growth,
    idle::Idle,
    matrix::{Figure, Load, Sidecar, Variant},
    pod_start::PodStart,
    programs::Programs,
    results::{Results, Setting},
    topology::CONGESTION,
};

/// All of it.
pub(super) fn markdown(results: &Results) -> String {
    let Setting {
        kernel,
        cpu,
        processors,
        awake,
        ..
    } = &results.setting;
    let idle = if *awake {
        "poll for work (`/dev/cpu_dma_latency` is 0)"
    } else {
        "sleep, and take their time to wake up"
    };
    let mut lines = vec![format!(
        "# Benchmark\n\nLinux {kernel}, {cpu}, {processors} processors; idle ones {idle}."
    )];
    if !results.samples.is_empty() {
        lines.push(traffic(results));
    }
    lines.extend(results.control.iter().map(ControlPlane::section));
    lines.extend(results.pod_start.iter().map(PodStart::section));
    lines.extend(results.programs.iter().map(Programs::section));
    if !results.churn.is_empty() {
        lines.push(churn::section(&results.churn));
    }
    lines.extend(results.idle.iter().map(Idle::section));
    lines.extend(results.growth.iter().map(Growth::section));
    if !results.checks.is_empty() {
        lines.push("\n## Goals\n\n| what | under | figure | goal | measured | |".to_owned());
        lines.push("|---|---|---|---|---|---|".to_owned());
        lines.extend(results.checks.iter().map(Check::row));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn traffic(results: &Results) -> String {
    let (rounds, seconds) = (results.rounds, results.setting.seconds);
    let workers = results.setting.workers;
    let mut lines = vec![format!(
        "\n{rounds} rounds of {seconds} s each, interleaved, the order rotated, every process \
         started anew for each, {CONGESTION} as TCP's congestion control. The sidecars, which are what is measured, share one processor, client and application the other, unless \
         the load says otherwise. Worker threads of each Envoy: {workers}. Median (quartiles); ratios are paired within a round, median and 95 % bootstrap interval."
    )];
    let (variants, matters) = results.contents();
    let tables = matters
        .into_iter()
        .map(|what| table(results, &variants, what));
    lines.extend(tables);
    lines.push(ratios(results, &results.contents().1));
    lines.join("\n")
}

/// The columns of the table of ratios.
const RATIOS: [(Variant, Variant); 6] = [
    (Variant::Explicit, Variant::Iptables),
    (Variant::Off, Variant::Iptables),
    (Variant::Proxies, Variant::Iptables),
    (Variant::All, Variant::Iptables),
    (Variant::Proxies, Variant::Off),
    (Variant::All, Variant::Limit),
];

/// The ratios of the rates, a line for each load.
fn ratios(results: &Results, matters: &[(Sidecar, Load)]) -> String {
    let names = RATIOS.map(|(of, to)| format!("{} / {}", of.name(), to.name()));
    let mut lines = vec![format!(
        "\n## Ratios of the rates\n\n| sidecars | load | {} |\n|{}",
        names.join(" | "),
        "---|".repeat(2 + RATIOS.len())
    )];
    for what in matters {
        let cells = RATIOS.map(|pair| {
            let ratio = results.ratio(pair, *what, Figure::Rate);
            ratio.map_or_else(|| "–".to_owned(), |ratio| ratio.text(2, ""))
        });
        lines.push(format!(
            "| {} | {} | {} |",
            what.0.name(),
            what.1.name(),
            cells.join(" | ")
        ));
    }
    lines.join("\n")
}

fn table(results: &Results, variants: &[Variant], what: (Sidecar, Load)) -> String {
    let (sidecar, load) = what;
    let mut lines = vec![format!(
        "\n## {}: {}\n\n| | rate, {} | against iptables | p50, µs | CPU µs for each | conntrack |\n\
         |---|---|---|---|---|---|",
        sidecar.name(),
        load.name(),
        load.unit(),
    )];
    for variant in variants {
        if results.summary(*variant, what, Figure::Rate).is_none() {
            continue;
        }
        let cell = |figure: Figure| {
            let Some(of) = results.summary(*variant, what, figure) else {
                return "–".to_owned();
            };
            let digits = usize::from(of.median < 100.0);
            of.text(digits)
        };
        let pair = (*variant, Variant::Iptables);
        let ratio = results
            .ratio(pair, what, Figure::Rate)
            .map_or_else(|| "–".to_owned(), |ratio| ratio.text(2, "×"));
        lines.push(format!(
            "| {} | {} | {ratio} | {} | {} | {} |",
            variant.name(),
            cell(Figure::Rate),
            cell(Figure::Median),
            cell(Figure::Cpu),
            cell(Figure::Conntrack),
        ));
    }
    let resumed = variants.iter().filter_map(|variant| {
        let share = results.summary(*variant, what, Figure::Resumed)?.median;
        Some(format!("{} {share:.2}", variant.name()))
    });
    let resumed: Vec<_> = resumed.collect();
    if !resumed.is_empty() {
        let resumed = resumed.join(", ");
        lines.push(format!(
            "\nShare of TLS handshakes that resumed a session: {resumed}."
        ));
    }
    lines.join("\n")
}
