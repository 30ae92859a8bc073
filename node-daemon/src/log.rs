//! The daemon's log: its filter, which a reload replaces, and its formats.

mod output;

use std::{
    fmt::{self, Debug},
    io::{IsTerminal as _, stderr},
    str::FromStr,
};

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Map, Value};
use sluice_api::text::{self, Printable};
use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    field::{MakeExt as _, Visit},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Writer, debug_fn},
        layer,
        time::{FormatTime as _, SystemTime},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

pub(crate) use output::{dropped_lines, report_dropped_lines};

use output::LossyStderr;

/// netlink-packet-route warns of every attribute that a newer kernel extended. The client of the API
/// server logs each failed attempt, which the daemon logs as well.
const QUIET: &str = "netlink_packet_route=error,kube_client=off";

/// A valid filter: a level, or `target=level,…`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct LogFilter(String);

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        sluice_api::check_log_filter(text)?;
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl LogFilter {
    fn directives(&self) -> EnvFilter {
        // Valid: checked when it was parsed.
        EnvFilter::new(format!("{QUIET},{}", self.0))
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// `time level target: message key=value …`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The handle that replaces the filter.
#[derive(Clone, Debug)]
pub(crate) struct Log(reload::Handle<EnvFilter, Registry>);

impl Log {
    /// Starts to log to standard error.
    ///
    /// # Errors
    ///
    /// If the process already logs.
    pub(crate) fn start(filter: &LogFilter, format: LogFormat) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(filter.directives());
        let lines = layer().with_writer(|| LossyStderr);
        let lines = match format {
            LogFormat::Text => lines
                .with_ansi(text::has_colors(stderr().is_terminal()))
                .fmt_fields(
                    debug_fn(|writer, field, value| text::field(writer, field.name(), value))
                        .delimited(" "),
                )
                .boxed(),
            LogFormat::Json => lines.with_ansi(false).event_format(Json).boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()?;
        Ok(Self(handle))
    }

    /// Replaces the filter.
    ///
    /// # Errors
    ///
    /// If the logger is gone.
    pub(crate) fn set(&self, filter: &LogFilter) -> Result<(), reload::Error> {
        self.0.reload(filter.directives())
    }
}

/// Formats an event as one JSON object. Texts are escaped and cut as in the text format.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        // Fields of the line replace fields of the event with the same name.
        for (key, value) in [
            ("time", time),
            ("level", metadata.level().to_string()),
            ("target", metadata.target().to_owned()),
        ] {
            fields.0.insert(key.to_owned(), value.into());
        }
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}

/// The fields of an event.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        if !field.name().starts_with("log.") {
            self.0.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Printable::new(value).to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let shown = Printable::new(format!("{value:?}"));
        self.put(field, shown.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{info, subscriber::with_default};

    use super::*;

    #[test]
    fn filter_without_level_is_refused() {
        assert!("sluiced=debug,info".parse::<LogFilter>().is_ok());
        for text in ["inof", "json", "sluiced=verbose", "[=info"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text}");
        }
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_line_is_escaped_and_cut() {
        let sink = Sink::default();
        let written = sink.clone();
        let lines = layer()
            .with_writer(move || written.clone())
            .event_format(Json);
        with_default(tracing_subscriber::registry().with(lines), || {
            let name = format!("a\n\u{202e}{}", "x".repeat(9999));
            info!(
                pod = name,
                meshed = true,
                count = 7,
                level = "forged",
                "pod \u{1b}added"
            );
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "pod \\u{1b}added");
        assert_eq!((&line["meshed"], &line["count"]), (&true.into(), &7.into()));
        let pod = line["pod"].as_str().unwrap();
        assert!(pod.starts_with("a\\n\\u{202e}xxx"), "{pod}");
        assert_eq!(pod.chars().count(), text::LONGEST);
        assert!(line["target"].as_str().unwrap().starts_with("sluiced"));
    }
}
