//! A picture: the share of short connections that took longer than a time, for each variant.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::{BLACK, Color as _, DrawingBackend as _, SVGBackend, WHITE};

use crate::{
    churn::Churn,
    plot::{colour, text},
};

const WIDTH: i32 = 720;
const HEIGHT: i32 = 420;
const LEFT: i32 = 80;
const RIGHT: i32 = 20;
const TOP: i32 = 70;
const BOTTOM: i32 = 50;
/// Powers of ten: of µs along, and of shares down.
const TIMES: (i32, i32) = (1, 7);
const SHARES: (i32, i32) = (-5, 0);
const TIME_NAMES: [&str; 7] = ["10 µs", "0.1 ms", "1 ms", "10 ms", "0.1 s", "1 s", "10 s"];
const SHARE_NAMES: [&str; 6] = ["0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"];

/// Draws it; nothing without a measurement.
pub(super) fn draw(churns: &[Churn], to: &Path) -> Result<()> {
    let usual: Vec<_> = churns.iter().filter(|churn| !churn.table_full).collect();
    if usual.is_empty() {
        return Ok(());
    }
    let size = (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs());
    let mut canvas = SVGBackend::new(to, size);
    paint(&mut canvas, &usual)?;
    canvas
        .present()
        .with_context(|| format!("cannot write {}", to.display()))
}

fn paint(canvas: &mut SVGBackend<'_>, churns: &[&Churn]) -> Result<()> {
    canvas.draw_rect((0, 0), (WIDTH, HEIGHT), &WHITE, true)?;
    let title = "Connections that take longer until their first byte, 1,000 new ones a second";
    canvas.draw_text(title, &text(16), (10, 10))?;
    grid(canvas)?;
    let mut legend = LEFT;
    for churn in churns {
        let style = colour(churn.variant).stroke_width(2);
        let points = churn
            .tail
            .curve
            .iter()
            .map(|(time, share)| place(*time, *share));
        canvas.draw_path(points, &style)?;
        canvas.draw_rect(
            (legend, 40),
            (legend + 10, 50),
            &colour(churn.variant),
            true,
        )?;
        canvas.draw_text(churn.variant.name(), &text(12), (legend + 15, 39))?;
        legend += 105;
    }
    Ok(())
}

fn grid(canvas: &mut SVGBackend<'_>) -> Result<()> {
    let line = BLACK.mix(0.15);
    for (power, name) in (TIMES.0..=TIMES.1).zip(TIME_NAMES) {
        let (x, _) = place(10_f64.powi(power), 1.0);
        canvas.draw_line((x, TOP), (x, HEIGHT - BOTTOM), &line)?;
        canvas.draw_text(name, &text(11), (x - 15, HEIGHT - BOTTOM + 8))?;
    }
    for (power, name) in (SHARES.0..=SHARES.1).zip(SHARE_NAMES) {
        let (_, y) = place(1.0, 10_f64.powi(power));
        canvas.draw_line((LEFT, y), (WIDTH - RIGHT, y), &line)?;
        canvas.draw_text(name, &text(11), (10, y - 6))?;
    }
    Ok(())
}

/// The pixel of a time in µs and a share; both scales are logarithmic.
#[expect(clippy::cast_possible_truncation, reason = "pixels of a picture")]
fn place(time: f64, share: f64) -> (i32, i32) {
    let along = |value: f64, (least, most): (i32, i32)| {
        ((value.log10() - f64::from(least)) / f64::from(most - least)).clamp(0.0, 1.0)
    };
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let x = f64::from(LEFT) + along(time, TIMES) * f64::from(width);
    let y = f64::from(TOP) + (1.0 - along(share, SHARES)) * f64::from(height);
    (x.round() as i32, y.round() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_logarithmic() {
        assert_eq!(place(10.0, 1.0), (LEFT, TOP));
        assert_eq!(place(1e7, 1e-5), (WIDTH - RIGHT, HEIGHT - BOTTOM));
        assert_eq!(place(1e4, 1.0).0, LEFT + (WIDTH - LEFT - RIGHT) / 2);
    }
}
