//! Test support: compares the lists in `docs/reference` with the code.

use std::{collections::BTreeSet, fs, path::Path};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use serde::{Deserialize, Deserializer, de, forward_to_deserialize_any};
use sluice_abi::Reason;
use sluice_testbed::pages;

use crate::{
    config::{Cli, Config},
    pods::Repair,
    refusals::Refusal,
};

/// The text of a page.
pub(crate) fn page(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs::read_to_string(docs.join(name)).unwrap()
}

/// The section of a page below a heading, with its subsections.
pub(crate) fn section(page: &str, heading: &str) -> String {
    let level = |line: &str| line.chars().take_while(|c| *c == '#').count();
    let mut in_fence = false;
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(
        lines.next().is_some(),
        "the page has no heading '{heading}'"
    );
    let below = lines.take_while(|line| {
        in_fence ^= line.starts_with("```");
        in_fence || !(1..=level(heading)).contains(&level(line))
    });
    below.collect::<Vec<_>>().join("\n")
}

/// The first code span in the first cell of each row of a section's tables, up to a blank.
pub(crate) fn listed(section: &str) -> BTreeSet<String> {
    let span = |line: &str| {
        let cell = line.strip_prefix("| `")?.split('`').next()?;
        Some(cell.split(' ').next()?.to_owned())
    };
    section.lines().filter_map(span).collect()
}

/// The commands of every page: what follows `program`. Text with an ellipsis is no command.
fn commands(program: &str) -> Vec<String> {
    let command = |line: &String| {
        let line = line.split(['>', '#', '|']).next()?.trim();
        let line = line.trim_start_matches("$ ");
        let line = line.split_once(" -- ").map_or(line, |(_, inside)| inside);
        let arguments = line.strip_prefix(program)?;
        (!arguments.contains('…')).then(|| arguments.to_owned())
    };
    let code = pages::code().unwrap();
    code.iter().filter_map(command).collect()
}

/// The configuration keys of `T`.
pub(crate) fn keys<T: Deserialize<'static>>() -> BTreeSet<String> {
    let mut keys: &[&str] = &[];
    let _refused = T::deserialize(Keys(&mut keys));
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// A deserializer that records the requested fields.
struct Keys<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Keys<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn set<T: ToString>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

/// The values of constants in a source file of the API crate: `pub const NAME: TYPE = VALUE;`.
fn constants(kind: &str) -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("sluice-api/src/lib.rs");
    let source = fs::read_to_string(source).unwrap();
    let value = |line: &str| {
        let (_, rest) = line.trim().strip_prefix("pub const ")?.split_once(kind)?;
        Some(rest.trim_end_matches(';').trim_matches('"').to_owned())
    };
    source.lines().filter_map(value).collect()
}

#[test]
fn configuration_page_lists_every_key() {
    let page = page("reference/configuration.md");
    assert_eq!(listed(&section(&page, "## Keys")), keys::<Config>());
}

#[test]
fn cli_page_lists_every_command_and_flag() {
    let page = page("reference/cli.md");
    let documented = page
        .lines()
        .filter_map(|line| line.strip_prefix("### sluiced "));
    let command = Cli::command();
    assert_eq!(
        set(documented),
        set(command.get_subcommands().map(clap::Command::get_name))
    );
    for command in command.get_subcommands() {
        let section = section(&page, &format!("### sluiced {}", command.get_name()));
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        let flags = set(flags.map(|flag| format!("--{flag}")));
        assert_eq!(listed(&section), flags, "{}", command.get_name());
    }
}

#[test]
fn metrics_page_lists_every_reason_and_repair() {
    let page = page("reference/metrics.md");
    let reasons = set(Reason::ALL.iter().map(|reason| reason.label()));
    assert_eq!(listed(&section(&page, "## Reasons")), reasons);
    let repairs = set(Repair::ALL.map(Repair::label));
    assert_eq!(listed(&section(&page, "## Repairs")), repairs);
    let refusals = set(Refusal::ALL.map(Refusal::label));
    assert_eq!(listed(&section(&page, "## Refused ADDs")), refusals);
}

#[test]
fn rules_page_names_existing_reasons() {
    let reasons = set(Reason::ALL.iter().map(|reason| reason.label()));
    let page = page("reference/rules.md");
    let spans = page.split('`').skip(1).step_by(2);
    let is_reason = |span: &&str| span.starts_with("outbound_") || span.starts_with("inbound_");
    let cited: BTreeSet<_> = set(spans.filter(is_reason));
    assert!(
        cited.is_subset(&reasons),
        "{:?}",
        cited.difference(&reasons)
    );
}

#[test]
fn cni_page_lists_every_error_code() {
    let page = page("reference/cni.md");
    let section = section(&page, "## Error codes");
    for code in constants(": u32 = ") {
        assert!(section.contains(&format!("\n| {code} |")), "code {code}");
    }
}

#[test]
fn api_page_lists_every_path() {
    let page = page("reference/api.md");
    for path in constants(": &str = ")
        .iter()
        .filter(|value| !value.starts_with("/run/"))
    {
        assert!(page.contains(&format!(" {path}` |")), "{path}");
    }
}

/// Pages name a command also without its required arguments.
#[test]
fn pages_quote_valid_commands() {
    let own = commands("sluiced ");
    let of_kubectl = ["explain", "monitor"].map(|command| {
        let all = commands(&format!("kubectl sluice {command} "));
        let complete = all
            .into_iter()
            .filter(|line| !line.starts_with("NAMESPACE"));
        complete
            .map(|line| format!("{command} --pod {line}"))
            .collect::<Vec<_>>()
    });
    let lines = [own, of_kubectl.concat()].concat();
    assert!(lines.len() > 60, "{lines:?}");
    for line in &lines {
        let parsed = Cli::try_parse_from(["sluiced"].into_iter().chain(line.split_whitespace()));
        let accepted = parsed.as_ref().map_or_else(
            |error| {
                [
                    ErrorKind::MissingRequiredArgument,
                    ErrorKind::DisplayVersion,
                ]
                .contains(&error.kind())
            },
            |_| true,
        );
        assert!(accepted, "{line}: {parsed:?}");
    }
}
