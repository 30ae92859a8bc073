//! `sluiced status`.

use std::{process::ExitCode, time::Duration};

use sluice_api::{Feature, ProgramRuns, ProgramsRequest, Status, path, text::Printable};

use super::{Client, print, print_json, table::table};
use crate::{
    config::{ClientArgs, StatusArgs},
    exit,
};

/// `sluiced status`.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    if let Some(seconds) = args.programs {
        program_runs(&args.client, seconds)?;
        return Ok(ExitCode::SUCCESS);
    }
    let client = Client::new(&args.client);
    if args.live {
        client.get(path::HEALTHZ)?;
        print(b"alive")?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = client.get(path::STATUS)?;
    let status: Status = serde_json::from_slice(&answer)?;
    if args.client.json {
        print_json(&answer)?;
    } else {
        print(page(&status).as_bytes())?;
    }
    Ok(if status.ready {
        ExitCode::SUCCESS
    } else {
        exit::NOT_READY.into()
    })
}

/// `sluiced status --programs`.
fn program_runs(args: &ClientArgs, seconds: u64) -> anyhow::Result<()> {
    let body = serde_json::to_vec(&ProgramsRequest { seconds })?;
    let answer = Client::new(args)
        .wait_longer(Duration::from_secs(seconds))
        .post(path::PROGRAMS, body)?;
    if args.json {
        return print_json(&answer);
    }
    let runs: Vec<ProgramRuns> = serde_json::from_slice(&answer)?;
    let head = ["PROGRAM", "ID", "RUNS/S", "NS/RUN", "CPU"];
    let row = |one: &ProgramRuns| {
        let each = one.nanos.checked_div(one.runs);
        // A second has 10^9 nanoseconds, and a percent 10^-2.
        let millipercent = one.nanos / seconds / 10_000;
        [
            one.name.clone(),
            one.id.to_string(),
            (one.runs / seconds).to_string(),
            each.map(|nanos| nanos.to_string()).unwrap_or_default(),
            format!("{}.{:03} %", millipercent / 1000, millipercent % 1000),
        ]
    };
    print(table(head, runs.iter().map(row)).as_bytes())
}

/// The status as text.
fn page(status: &Status) -> String {
    let mut page: Vec<_> = facts(status)
        .iter()
        .map(|(key, value)| format!("{key:<14}{}", Printable::new(value)))
        .collect();
    page.extend([String::new(), programs(status)]);
    if !status.foreign_programs.is_empty() {
        page.extend([String::new(), foreign_programs(status)]);
    }
    page.join("\n")
}

/// The lines above the tables, with their keys.
fn facts(status: &Status) -> Vec<(&'static str, String)> {
    let ready = if status.ready { "ready" } else { "not ready" };
    let none = ["none".to_owned()];
    let problems = match &*status.problems {
        [] => &none[..],
        problems => problems,
    };
    let Status { version, abi, .. } = status;
    let mut lines = vec![
        ("daemon", format!("{ready}, version {version}, ABI {abi}")),
        ("problems", problems[0].clone()),
    ];
    lines.extend(problems[1..].iter().map(|problem| ("", problem.clone())));
    lines.extend([
        ("mesh", status.mesh.clone()),
        ("acceleration", status.acceleration.clone()),
        ("pods", counts(status)),
        ("programs", programs_origin(status)),
        ("kernel", status.kernel.clone()),
    ]);
    lines.extend(status.features.iter().map(|one| ("", feature(one))));
    lines
}

fn feature(feature: &Feature) -> String {
    let Feature {
        name,
        found,
        impact_if_missing,
    } = feature;
    if *found {
        format!("+ {name}")
    } else {
        format!("- {name}: {impact_if_missing}")
    }
}

fn programs(status: &Status) -> String {
    let programs = status.programs.iter().map(|program| {
        let (id, count) = (program.id.to_string(), program.attach_count.to_string());
        [program.name.clone(), id, count, program.attach_type.clone()]
    });
    table(["PROGRAM", "ID", "COUNT", "ATTACH"], programs)
}

fn foreign_programs(status: &Status) -> String {
    let foreign = status.foreign_programs.iter().map(|program| {
        let order = ["after", "before"][usize::from(program.runs_first)];
        [
            program.name.clone(),
            program.id.to_string(),
            program.uid.to_string(),
            order.to_owned(),
            program.hook.clone(),
        ]
    });
    table(["FOREIGN PROGRAM", "ID", "UID", "ORDER", "HOOK"], foreign)
}

fn programs_origin(status: &Status) -> String {
    let origin =
        ["loaded at the start", "adopted, unchanged"][usize::from(status.programs_adopted)];
    format!("{}, {origin}", status.programs.len())
}

fn counts(status: &Status) -> String {
    let counts = [
        (status.meshed_pods, "meshed"),
        (status.unmeshed_pods, "not intercepted"),
        (status.pending_pods, "pending"),
        (status.pods_without_listener, "without a listening proxy"),
        (status.orphaned_netns, "orphaned"),
    ];
    // The other counts are exceptions.
    let shown = counts
        .iter()
        .enumerate()
        .filter(|(index, (count, _))| *index < 2 || *count > 0);
    let shown = shown.map(|(_, (count, what))| format!("{count} {what}"));
    shown.collect::<Vec<_>>().join(", ")
}
