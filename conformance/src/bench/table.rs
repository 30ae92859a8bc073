//! The report in Markdown.

use crate::bench::{
    goals,
    matter::{Contender, Figure, Load, Sidecar},
    results::Results,
};

/// All of it.
pub(super) fn markdown(results: &Results) -> String {
    let Results {
        kernel,
        processor,
        processors,
        rounds,
        seconds,
        ..
    } = results;
    let mut lines = vec![
        "# Benchmark\n".to_owned(),
        format!(
            "Linux {kernel}, {processor}, {processors} processors; {rounds} rounds of {seconds} s \
             each, interleaved, the order rotated. The client's Pod has one processor, the \
             server's another. Median (quartiles); ratios are paired within a round, median and \
             95 % bootstrap interval."
        ),
    ];
    lines.extend(
        results
            .notes
            .iter()
            .map(|note| format!("\nPassed over: {note}")),
    );
    let (contenders, matters) = results.contents();
    for what in matters {
        lines.push(table(results, &contenders, what));
    }
    let promised: Vec<_> = goals::all()
        .iter()
        .filter_map(|goal| goal.line(results))
        .collect();
    if !promised.is_empty() {
        lines.push("\n## Goals\n\n| what | load | figure | goal | measured | |".to_owned());
        lines.push("|---|---|---|---|---|---|".to_owned());
        lines.extend(promised);
    }
    lines.push(String::new());
    lines.join("\n")
}

fn table(results: &Results, contenders: &[Contender], what: (Sidecar, Load)) -> String {
    let (sidecar, load) = what;
    let mut lines = vec![format!(
        "\n## {}: {}\n\n| | rate, {} | against iptables | p50, µs | CPU µs for each | conntrack |\n\
         |---|---|---|---|---|---|",
        sidecar.name(),
        load.name(),
        load.unit(),
    )];
    for contender in contenders {
        let cell = |figure: Figure| {
            let Some(of) = results.summary(*contender, what, figure) else {
                return "–".to_owned();
            };
            let digits = usize::from(of.median < 100.0);
            format!(
                "{:.digits$} ({:.digits$}–{:.digits$})",
                of.median, of.lower_quartile, of.upper_quartile
            )
        };
        let pair = (*contender, Contender::Iptables);
        let ratio = results.ratio(pair, what, Figure::Rate).map_or_else(
            || "–".to_owned(),
            |ratio| format!("{:.2}× ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high),
        );
        lines.push(format!(
            "| {} | {} | {ratio} | {} | {} | {} |",
            contender.name(),
            cell(Figure::Rate),
            cell(Figure::Median),
            cell(Figure::Cpu),
            cell(Figure::Conntrack),
        ));
    }
    lines.join("\n")
}
