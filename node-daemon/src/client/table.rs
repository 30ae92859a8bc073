//! Tables and cells of the commands' output.

use sluice_api::text::Printable;

/// The maximum width of a cell in characters.
const CELL: usize = 120;

/// Aligns columns to their widest cell. The first row is the head.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.map(|row| row.map(|cell| printable(&cell))));
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let aligned = |line: &[String; N]| {
        let cells = line.iter().zip(widths);
        let padded = cells.map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(aligned).collect::<Vec<_>>().join("\n")
}

/// Escapes control characters, which a runtime may have reported, and makes an empty cell visible.
pub(super) fn printable(cell: &str) -> String {
    match cell {
        "" => "-".to_owned(),
        cell => Printable::new(cell).cut(CELL).to_string(),
    }
}

/// A time of day in UTC, from milliseconds since 1970.
pub(super) fn time_of_day(millis: u64) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{millis:03}")
}
