//! Rates of requests through the real proxies: with the mesh's rules, and with Sluice at each setting of
//! acceleration. The binaries should be release builds.

use std::path::Path;

use super::{
    Subject,
    ambient::Ambient,
    binary,
    linkerd::Linkerd,
    network::{CLIENT, Network, SERVER, address, serve_http},
};

const PORT: u16 = 8085;
const ROUNDS: usize = 5;
const SECONDS: u16 = 2;
/// The variants: the backend, and the daemon's configuration.
const VARIANTS: [(&str, Subject, &str); 4] = [
    ("rules", Subject::Rules, ""),
    ("off", Subject::Sluice, "acceleration = 'off'\n"),
    ("proxies", Subject::Sluice, "acceleration = 'proxies'\n"),
    ("all", Subject::Sluice, "acceleration = 'all'\n"),
];
/// A load: its name, and arguments of wrk.
const LOADS: [(&str, &[&str]); 2] = [
    ("keep-alive, 16 connections", &["--connections", "16"]),
    (
        "a new connection for each request, 16 at a time",
        &["--connections", "16", "--header", "Connection: close"],
    ),
];

/// Requests a second of both loads.
fn measure(network: &Network) -> [f64; LOADS.len()] {
    serve_http(&network.pods[SERVER], PORT);
    LOADS.map(|(_, arguments)| {
        let mut command = network.command_as(CLIENT, 1000);
        command.args(["wrk", "--threads", "1", "--timeout", "5"]);
        command.args(["--duration", &SECONDS.to_string()]);
        command.args(arguments);
        command.arg(format!("http://{}:{PORT}/", address(SERVER, false)));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // linkerd2-proxy takes the header that announces the end of a connection: wrk counts that end
        // as an error of a read.
        let errors = text.lines().find(|line| line.contains("Socket errors"));
        let harmless = |line: &str| {
            ["connect 0,", "write 0,", "timeout 0"]
                .iter()
                .all(|none| line.contains(none))
        };
        assert!(errors.is_none_or(harmless), "{text}");
        let rate = text
            .lines()
            .find_map(|line| line.strip_prefix("Requests/sec:"));
        rate.expect("a rate").trim().parse().unwrap()
    })
}

/// Compares the rates with a proxy, whose binary `variable` names. The variants take turns within a
/// round. Ratios are paired within it.
fn compare(proxy: &str, variable: &str, run: impl Fn(Subject, &Path, &str) -> [f64; LOADS.len()]) {
    let Some(binary) = binary(variable) else {
        return;
    };
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| VARIANTS.map(|(_, subject, keys)| run(subject, &binary, keys)))
        .collect();
    println!("| {proxy} | rules, 1/s | off | proxies | all |\n|---|---|---|---|---|");
    for (load, (name, _)) in LOADS.iter().enumerate() {
        let rules = median(rounds.iter().map(|round| round[0][load])).0;
        print!("| {name} | {rules:.0} |");
        for variant in 1..VARIANTS.len() {
            let ratios = rounds
                .iter()
                .map(|round| round[variant][load] / round[0][load]);
            let (middle, least, most) = median(ratios);
            print!(" {middle:.2}\u{d7} ({least:.2}\u{2013}{most:.2}) |");
        }
        println!();
    }
}

/// The median, the least, and the most.
fn median(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    (
        values[values.len() / 2],
        values[0],
        values[values.len() - 1],
    )
}

#[test]
#[ignore = "measures for minutes: make proxies RATES=1"]
fn rates_with_ztunnel() {
    compare("ztunnel", "ZTUNNEL", |subject, binary, keys| {
        measure(&Ambient::start(subject, binary.into(), keys).network)
    });
}

#[test]
#[ignore = "measures for minutes: make proxies RATES=1"]
fn rates_with_linkerd() {
    compare(
        "linkerd2-proxy",
        "LINKERD2_PROXY",
        |subject, binary, keys| measure(&Linkerd::start(subject, false, binary, keys).network),
    );
}
