//! Escaping of untrusted text to one safe line: for logs, CNI messages, metric labels and terminals.
//!
//! Annotations, names, paths and container IDs are untrusted. A newline can forge a log line, an escape
//! sequence can move a terminal's cursor, a bidirectional control can reorder the text, and a long
//! value can fill a disk.

use std::fmt::{self, Debug, Display, Write};

/// Maximum length in characters, escapes included, unless [`Printable::cut`] sets another.
pub const LONGEST: usize = 1024;
/// Replaces the middle of a text that is too long.
const ELLIPSIS: &str = "[…]";

/// A value as one line: control characters, invisible characters and bidirectional controls are escaped
/// as in Rust (`\n`, `\u{202e}`). A text that is too long loses its middle, so that a message keeps the
/// part after a value.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T> {
    value: T,
    longest: usize,
}

impl<T: Display> Printable<T> {
    /// Limits the length to [`LONGEST`] characters.
    pub const fn new(value: T) -> Self {
        Self {
            value,
            longest: LONGEST,
        }
    }

    /// Limits the length to `longest` characters.
    #[must_use]
    pub fn cut(self, longest: usize) -> Self {
        Self { longest, ..self }
    }
}

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&line(&self.value.to_string(), self.longest))
    }
}

/// Writes a field of a log line, as `name=value`; the message has no name. The fields of the `log`
/// crate's records (`log.target` and the like) repeat parts of the line: omitted.
///
/// # Errors
///
/// Those of the writer.
pub fn field(writer: &mut dyn Write, name: &str, value: &dyn Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let value = Printable::new(value);
    match name {
        "message" => write!(writer, "{value}"),
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, "{name}={value}"),
    }
}

/// The value of a metric label without the quotes, escaped as the text format requires.
pub fn label(value: impl Display) -> String {
    let shown = Printable::new(value).to_string();
    shown.replace('\\', "\\\\").replace('"', "\\\"")
}

/// A text of several lines, each as [`Printable`]: for messages whose line breaks are trusted, such as
/// the log of the kernel's verifier.
pub fn lines(text: impl Display) -> String {
    let text = text.to_string();
    let shown = text.lines().map(|one| Printable::new(one).to_string());
    shown.collect::<Vec<_>>().join("\n")
}

/// JSON whose strings contain no terminal control characters: these are written as `\u….`, an
/// equivalent form.
#[must_use]
pub fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for one in text.chars() {
        // Outside strings, the only such characters in JSON are whitespace.
        if is_printable(one) || matches!(one, '\n' | '\t' | '\r') {
            shown.push(one);
        } else {
            for unit in one.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown
}

fn line(text: &str, longest: usize) -> String {
    let shown = escape(text);
    let length = shown.chars().count();
    if length <= longest {
        return shown;
    }
    let kept = longest.saturating_sub(ELLIPSIS.chars().count());
    let (head, tail) = (kept - kept / 3, kept / 3);
    let mut short: String = shown.chars().take(head).collect();
    short.push_str(ELLIPSIS);
    short.extend(shown.chars().skip(length - tail));
    short
}

fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for one in text.chars() {
        if is_printable(one) {
            shown.push(one);
        } else {
            shown.extend(one.escape_default());
        }
    }
    shown
}

/// As in the standard library's `Debug` tables: no control, format, combining or unassigned character.
fn is_printable(one: char) -> bool {
    match one {
        ' '..='~' => true,
        _ if one.is_ascii() => false,
        _ => one.escape_debug().len() == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The input for each sink.
    const HOSTILE: &str = "a\nb\u{1b}[2J\u{9b}2J\r\u{202e}\u{200b}\u{feff}\u{2028}\0é\\\"";

    #[test]
    fn hostile_text_becomes_one_line() {
        assert_eq!(
            Printable::new(HOSTILE).to_string(),
            "a\\nb\\u{1b}[2J\\u{9b}2J\\r\\u{202e}\\u{200b}\\u{feff}\\u{2028}\\u{0}é\\\""
        );
    }

    #[test]
    fn every_control_and_direction_mark_is_escaped() {
        let format = [
            '\u{ad}',
            '\u{61c}',
            '\u{200d}',
            '\u{2060}',
            '\u{2066}',
            '\u{e0001}',
        ];
        let controls = (0..=0x1f).chain(0x7f..=0x9f).filter_map(char::from_u32);
        for one in controls.chain(format) {
            let shown = Printable::new(one).to_string();
            assert!(shown.starts_with('\\') && shown.is_ascii(), "{shown}");
        }
    }

    #[test]
    fn long_text_keeps_both_ends() {
        let text = format!("annotation k: '{}' is not a port", "9".repeat(1 << 20));
        let shown = Printable::new(&text).to_string();
        assert_eq!(shown.chars().count(), LONGEST);
        assert!(shown.starts_with("annotation k: '999"));
        assert!(shown.contains(ELLIPSIS) && shown.ends_with("' is not a port"));
        for longest in 0..5 {
            let shown = Printable::new("abcdef").cut(longest).to_string();
            assert!(shown.chars().count() <= 5, "{longest}: {shown}");
        }
        assert_eq!(Printable::new("abcdef").cut(6).to_string(), "abcdef");
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(lines("a\u{1b}\nb\r\nc\u{85}"), "a\\u{1b}\nb\nc\\u{85}");
    }

    #[test]
    fn width_pads_the_escaped_text() {
        assert_eq!(format!("{:<6}|", Printable::new("a\nb")), "a\\nb  |");
    }

    #[test]
    fn labels_escape_quotes_and_backslashes() {
        assert_eq!(label("a\"b\\c\n"), "a\\\"b\\\\c\\\\n");
    }

    #[test]
    fn fields_escape_displayed_and_debugged_values() {
        let shown = |name, value: &dyn Debug| {
            let mut text = String::new();
            field(&mut text, name, value).map(|()| text)
        };
        let displayed = format_args!("x\ny\u{1b}");
        assert_eq!(shown("pod", &displayed), Ok("pod=x\\ny\\u{1b}".into()));
        assert_eq!(shown("message", &displayed), Ok("x\\ny\\u{1b}".into()));
        assert_eq!(shown("pod", &"x\ny"), Ok("pod=\"x\\ny\"".into()));
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "{\n  \"k\": \"a\u{9b}\u{202e}\u{e0001}é\"\n}";
        let shown = json(text);
        assert_eq!(shown, "{\n  \"k\": \"a\\u009b\\u202e\\udb40\\udc01é\"\n}");
    }
}
