//! A picture: each variant's rate against the rules, load by load.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::{
    BLACK, Color as _, DrawingBackend as _, RGBColor, SVGBackend, TextStyle, WHITE,
};

use crate::{
    matrix::{Figure, Load, Placement, Sidecar, Variant},
    results::Results,
};

const WIDTH: i32 = 960;
/// Left of the bars: the groups' names.
const MARGIN: i32 = 400;
const BAR: i32 = 13;
const GAP: i32 = 16;
const TOP: i32 = 70;
/// Right of the longest bar: its number.
const NUMBER: i32 = 60;

/// The colour of a variant.
pub(super) fn colour(variant: Variant) -> RGBColor {
    match variant {
        Variant::Direct => RGBColor(190, 190, 190),
        Variant::Explicit => RGBColor(120, 120, 120),
        Variant::Iptables => RGBColor(214, 96, 77),
        Variant::Off => RGBColor(146, 197, 222),
        Variant::Proxies => RGBColor(67, 147, 195),
        Variant::All => RGBColor(33, 102, 172),
        Variant::Limit => RGBColor(77, 77, 77),
    }
}

/// The loads of the overview: first those with mutual TLS between the sidecars, then those in plaintext.
const OVERVIEW: [(Sidecar, Load); 9] = [
    (Sidecar::MeshHttp1, Load::KeepAlive(64, Placement::Sidecars)),
    (Sidecar::MeshHttp1, Load::NewConnection(16)),
    (Sidecar::MeshHttp2, Load::KeepAlive(64, Placement::Sidecars)),
    (Sidecar::MeshHttp2, Load::Grpc(64)),
    (Sidecar::MeshHttp2, Load::Tree(16)),
    (
        Sidecar::EnvoyTcpMtls,
        Load::KeepAlive(64, Placement::Sidecars),
    ),
    (Sidecar::EnvoyTcp, Load::KeepAlive(64, Placement::Sidecars)),
    (Sidecar::EnvoyTcp, Load::NewConnection(16)),
    (Sidecar::EnvoyTcp, Load::RoundTrip(64, Placement::Together)),
];

/// A bar: how many times the rules' rate.
struct Bar {
    variant: Variant,
    times: f64,
}

/// Bars with a common name.
struct Group {
    name: String,
    bars: Vec<Bar>,
}

/// The bars of a load, without those that are no means of interception.
fn group(results: &Results, what: (Sidecar, Load), name: String) -> Option<Group> {
    let (variants, _) = results.contents();
    let hidden = [Variant::Direct, Variant::Limit];
    let bar = |variant: &Variant| {
        let ratio = results.ratio((*variant, Variant::Iptables), what, Figure::Rate)?;
        Some(Bar {
            variant: *variant,
            times: ratio.median,
        })
    };
    let shown = variants.iter().filter(|variant| !hidden.contains(variant));
    let bars: Vec<_> = shown.filter_map(bar).collect();
    (!bars.is_empty()).then_some(Group { name, bars })
}

/// Draws every load of a sidecar; nothing if the rules took no part.
pub(super) fn draw(results: &Results, sidecar: Sidecar, to: &Path) -> Result<()> {
    let (_, matters) = results.contents();
    let loads = matters.into_iter().filter(|(of, _)| *of == sidecar);
    let groups = loads.filter_map(|what| group(results, what, what.1.name()));
    let title = format!("{}: rate against iptables (1.0)", sidecar.name());
    draw_groups(&title, &groups.collect::<Vec<_>>(), to)
}

/// Draws some loads of several sidecars; nothing if one is missing.
pub(super) fn draw_overview(results: &Results, to: &Path) -> Result<()> {
    let named = |what: (Sidecar, Load)| {
        let (sidecar, load) = what;
        group(
            results,
            what,
            format!("{}: {}", sidecar.name(), load.name()),
        )
    };
    let groups: Option<Vec<_>> = OVERVIEW.into_iter().map(named).collect();
    draw_groups(
        "Rate against iptables (1.0)",
        &groups.unwrap_or_default(),
        to,
    )
}

fn draw_groups(title: &str, groups: &[Group], to: &Path) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let bars = groups.iter().flat_map(|group| &group.bars);
    let longest = bars.map(|bar| bar.times).fold(1.0, f64::max);
    let scale = f64::from(WIDTH - MARGIN - NUMBER) / longest;
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = TOP + BAR * i32::try_from(rows)? + GAP * i32::try_from(groups.len())?;
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let mut canvas = SVGBackend::new(to, size);
    paint(&mut canvas, title, groups, scale)?;
    canvas
        .present()
        .with_context(|| format!("cannot write {}", to.display()))
}

fn paint(canvas: &mut SVGBackend<'_>, title: &str, groups: &[Group], scale: f64) -> Result<()> {
    let (width, height) = canvas.get_size();
    let corner = (width.cast_signed(), height.cast_signed());
    canvas.draw_rect((0, 0), corner, &WHITE, true)?;
    canvas.draw_text(title, &text(18), (10, 10))?;
    legend(canvas, &groups[0].bars)?;
    let mut y = TOP;
    for Group { name, bars } in groups {
        canvas.draw_text(name, &text(14), (10, y))?;
        for Bar { variant, times } in bars {
            let end = MARGIN + length(*times, scale);
            canvas.draw_rect((MARGIN, y), (end, y + BAR - 2), &colour(*variant), true)?;
            canvas.draw_text(&format!("{times:.2}"), &text(11), (end + 6, y))?;
            y += BAR;
        }
        y += GAP;
    }
    let one = MARGIN + length(1.0, scale);
    canvas.draw_line((one, TOP - 8), (one, y - GAP + 4), &BLACK.mix(0.5))?;
    Ok(())
}

fn legend(canvas: &mut SVGBackend<'_>, bars: &[Bar]) -> Result<()> {
    let mut x = MARGIN;
    for Bar { variant, .. } in bars {
        canvas.draw_rect((x, 40), (x + 10, 50), &colour(*variant), true)?;
        canvas.draw_text(variant.name(), &text(12), (x + 15, 39))?;
        x += 105;
    }
    Ok(())
}

/// Text of so many pixels.
pub(super) fn text(size: i32) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size))
}

#[expect(clippy::cast_possible_truncation, reason = "pixels of a picture")]
fn length(times: f64, scale: f64) -> i32 {
    (times * scale).round() as i32
}
