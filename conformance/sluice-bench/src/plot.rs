//! A picture: each variant's rate against the rules, load by load.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::{
    BLACK, Color as _, DrawingBackend as _, RGBColor, SVGBackend, TextStyle, WHITE,
};

use crate::{
    matrix::{Figure, Load, Sidecar, Variant},
    results::Results,
};

const WIDTH: i32 = 960;
/// Left of the bars: the loads' names.
const MARGIN: i32 = 310;
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

/// A bar: how many times the rules' rate.
struct Bar {
    variant: Variant,
    times: f64,
}

/// Bars of each load, without `direct`, which is far beyond the others.
fn groups(results: &Results, sidecar: Sidecar) -> Vec<(Load, Vec<Bar>)> {
    let (variants, matters) = results.contents();
    let group = |load| {
        let bar = |variant: &Variant| {
            let pair = (*variant, Variant::Iptables);
            let ratio = results.ratio(pair, (sidecar, load), Figure::Rate)?;
            Some(Bar {
                variant: *variant,
                times: ratio.median,
            })
        };
        let bars = variants.iter().filter(|one| **one != Variant::Direct);
        (load, bars.filter_map(bar).collect::<Vec<_>>())
    };
    let loads = matters.iter().filter(|(of, _)| *of == sidecar);
    let groups = loads.map(|(_, load)| group(*load));
    groups.filter(|(_, bars)| !bars.is_empty()).collect()
}

/// Draws it; nothing if the rules took no part.
pub(super) fn draw(results: &Results, sidecar: Sidecar, to: &Path) -> Result<()> {
    let groups = groups(results, sidecar);
    if groups.is_empty() {
        return Ok(());
    }
    let bars = groups.iter().flat_map(|(_, bars)| bars);
    let longest = bars.map(|bar| bar.times).fold(1.0, f64::max);
    let scale = f64::from(WIDTH - MARGIN - NUMBER) / longest;
    let rows: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = TOP + BAR * i32::try_from(rows)? + GAP * i32::try_from(groups.len())?;
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let mut canvas = SVGBackend::new(to, size);
    paint(&mut canvas, sidecar, &groups, scale)?;
    canvas
        .present()
        .with_context(|| format!("cannot write {}", to.display()))
}

fn paint(
    canvas: &mut SVGBackend<'_>,
    sidecar: Sidecar,
    groups: &[(Load, Vec<Bar>)],
    scale: f64,
) -> Result<()> {
    let (width, height) = canvas.get_size();
    let corner = (width.cast_signed(), height.cast_signed());
    canvas.draw_rect((0, 0), corner, &WHITE, true)?;
    let title = format!("{}: rate against iptables (1.0)", sidecar.name());
    canvas.draw_text(&title, &text(18), (10, 10))?;
    legend(canvas, &groups[0].1)?;
    let mut y = TOP;
    for (load, bars) in groups {
        canvas.draw_text(&load.name(), &text(14), (10, y))?;
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
