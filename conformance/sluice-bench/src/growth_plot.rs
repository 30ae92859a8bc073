//! A picture: what things cost over size. A flat line is a size that costs nothing.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::{BLACK, Color as _, DrawingBackend as _, RGBColor, SVGBackend, WHITE};

use crate::{
    growth::{AXES, Axis, Figure, Growth},
    plot::text,
};

const WIDTH: i32 = 960;
const HEIGHT: i32 = 700;
/// Above the panels: title and legend.
const TOP: i32 = 76;
const PANEL: (i32, i32) = (480, 312);
/// Within a panel, around its curves.
const LEFT: i32 = 56;
const RIGHT: i32 = 24;
const ABOVE: i32 = 36;
const BELOW: i32 = 36;
/// Powers of ten along.
const SIZES: [&str; 7] = ["1", "10", "100", "1k", "10k", "100k", "1M"];
/// The end of a curve has its number from so many times the node with one Pod on.
const GROWN: f64 = 1.1;
/// Parts of the scale upwards.
const PARTS: u8 = 4;

fn colour(axis: Axis) -> RGBColor {
    match axis {
        Axis::Networks => RGBColor(230, 145, 56),
        Axis::Destinations => RGBColor(106, 168, 79),
        Axis::Connections => RGBColor(33, 102, 172),
        Axis::Pods => RGBColor(204, 51, 102),
    }
}

/// Draws it.
pub(super) fn draw(growth: &Growth, to: &Path) -> Result<()> {
    let size = (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs());
    let mut canvas = SVGBackend::new(to, size);
    paint(&mut canvas, growth)?;
    canvas
        .present()
        .with_context(|| format!("cannot write {}", to.display()))
}

fn paint(canvas: &mut SVGBackend<'_>, growth: &Growth) -> Result<()> {
    canvas.draw_rect((0, 0), (WIDTH, HEIGHT), &WHITE, true)?;
    let title = "Cost over size (logarithmic): a flat line is a size that costs nothing";
    canvas.draw_text(title, &text(18), (10, 10))?;
    let mut x = 12;
    for axis in AXES.into_iter().rev() {
        canvas.draw_rect((x, 46), (x + 18, 50), &colour(axis), true)?;
        canvas.draw_text(axis.name(), &text(13), (x + 24, 40))?;
        x += 190;
    }
    canvas.draw_line((x, 48), (x + 18, 48), &BLACK.mix(0.6))?;
    canvas.draw_text("a node with one Pod", &text(13), (x + 24, 40))?;
    for (place, figure) in (0..).zip(Figure::ALL) {
        let corner = (place % 2 * PANEL.0, TOP + place / 2 * PANEL.1);
        Panel::of(growth, figure, corner).paint(canvas, growth)?;
    }
    Ok(())
}

/// The curves of a figure.
struct Panel {
    figure: Figure,
    corner: (i32, i32),
    /// The largest power of ten along, and the largest value upwards.
    powers: u8,
    most: f64,
}

impl Panel {
    fn of(growth: &Growth, figure: Figure, corner: (i32, i32)) -> Self {
        let all = || AXES.into_iter().flat_map(|axis| growth.curve(axis, figure));
        let largest = all().map(|(size, _)| size).max().unwrap_or(1);
        let highest = all()
            .map(|(_, value)| value)
            .chain(growth.reference(figure))
            .fold(0.0, f64::max);
        let powers = (1..u8::MAX).find(|power| 10_f64.powi((*power).into()) >= f64::from(largest));
        Self {
            figure,
            corner,
            powers: powers.unwrap_or(1),
            most: round_up(highest),
        }
    }

    fn paint(&self, canvas: &mut SVGBackend<'_>, growth: &Growth) -> Result<()> {
        let (x, y) = self.corner;
        canvas.draw_text(self.figure.name(), &text(15), (x + LEFT, y + 8))?;
        let line = BLACK.mix(0.15);
        for part in 0..=PARTS {
            let value = self.most * f64::from(part) / f64::from(PARTS);
            let (_, height) = self.place(1.0, value);
            canvas.draw_line((x + LEFT, height), (x + PANEL.0 - RIGHT, height), &line)?;
            canvas.draw_text(&number(value), &text(11), (x + 12, height - 6))?;
        }
        for (power, name) in (0..=self.powers).zip(SIZES) {
            let (along, bottom) = self.place(10_f64.powi(power.into()), 0.0);
            let (_, top) = self.place(1.0, self.most);
            canvas.draw_line((along, top), (along, bottom), &line)?;
            canvas.draw_text(name, &text(11), (along - 6, bottom + 8))?;
        }
        if let Some(reference) = growth.reference(self.figure) {
            let (_, height) = self.place(1.0, reference);
            let end = x + PANEL.0 - RIGHT;
            canvas.draw_line((x + LEFT, height), (end, height), &BLACK.mix(0.6))?;
        }
        for axis in AXES {
            let curve = growth.curve(axis, self.figure);
            let points = curve
                .iter()
                .map(|(size, value)| self.place(f64::from(*size), *value));
            let points: Vec<_> = points.collect();
            if points.len() > 1 {
                canvas.draw_path(points.clone(), &colour(axis).stroke_width(2))?;
            }
            for point in &points {
                canvas.draw_circle(*point, 3, &colour(axis), true)?;
            }
            let ends = curve.last().zip(points.last());
            let grown = ends.filter(|((_, value), _)| self.shows(*value, growth));
            if let Some(((_, value), (along, height))) = grown {
                canvas.draw_text(&number(*value), &text(12), (along + 7, height - 6))?;
            }
        }
        Ok(())
    }

    /// Whether the end of a curve has its number: it is clearly above the node with one Pod.
    fn shows(&self, value: f64, growth: &Growth) -> bool {
        let reference = growth.reference(self.figure);
        reference.is_some_and(|reference| value > GROWN * reference)
    }

    /// The pixel of a size and a value: the sizes' scale is logarithmic, that of the values begins at zero.
    #[expect(clippy::cast_possible_truncation, reason = "pixels of a picture")]
    fn place(&self, size: f64, value: f64) -> (i32, i32) {
        let along = size.max(1.0).log10() / f64::from(self.powers);
        let up = (value / self.most).clamp(0.0, 1.0);
        let (width, height) = (PANEL.0 - LEFT - RIGHT, PANEL.1 - ABOVE - BELOW);
        let x = f64::from(self.corner.0 + LEFT) + along * f64::from(width);
        let y = f64::from(self.corner.1 + ABOVE) + (1.0 - up) * f64::from(height);
        (x.round() as i32, y.round() as i32)
    }
}

/// A number that is not less, and easily read: the quarters of the scale have few digits.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| step * power >= value);
    step.unwrap_or(10.0) * power
}

fn number(value: f64) -> String {
    if value >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::tests::growth;

    #[test]
    fn values_begin_at_zero_and_sizes_are_logarithmic() {
        let panel = Panel::of(&growth(), Figure::Add, (0, 0));
        assert_eq!((panel.powers, number(panel.most)), (2, "2.0".to_owned()));
        let (left, bottom) = panel.place(1.0, 0.0);
        let (right, top) = panel.place(100.0, 2.0);
        assert_eq!((left, bottom), (LEFT, PANEL.1 - BELOW));
        assert_eq!((right, top), (PANEL.0 - RIGHT, ABOVE));
        assert_eq!(
            panel.place(10.0, 1.0),
            (i32::midpoint(left, right), i32::midpoint(top, bottom))
        );
    }

    #[test]
    fn scales_end_at_numbers_that_are_easily_read() {
        let ends = [0.0, 0.9, 17.0, 321.0].map(|value| number(round_up(value)));
        assert_eq!(ends, ["1.0", "1.0", "20", "400"]);
    }

    #[test]
    fn every_figure_has_a_panel() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("growth.svg");
        draw(&growth(), &file)?;
        let picture = std::fs::read_to_string(file)?;
        for figure in Figure::ALL {
            assert!(picture.contains(figure.name()), "{}", figure.name());
        }
        Ok(())
    }
}
