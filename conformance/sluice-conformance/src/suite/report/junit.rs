//! `JUnit`'s XML, which every CI can show.

use anyhow::Result;
use quick_xml::{Writer, events::BytesText};

use crate::suite::{diff::Difference, report::Report};

/// A test for each case on each subject, and one for each seed.
pub(crate) fn write(report: &Report) -> Result<String> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer
        .create_element("testsuites")
        .write_inner_content(|writer| {
            for (backend, outcomes) in &report.backends {
                let suite = writer
                    .create_element("testsuite")
                    .with_attribute(("name", *backend));
                suite.write_inner_content(|writer| {
                    for outcome in outcomes {
                        let failure = (!outcome.as_it_should).then(|| {
                            if outcome.passed {
                                "passes without interception".to_owned()
                            } else {
                                outcome.wrong.join("\n")
                            }
                        });
                        let class = format!("{backend}.{}", outcome.group);
                        test(writer, &class, &outcome.name, failure)?;
                    }
                    Ok(())
                })?;
            }
            let suite = writer
                .create_element("testsuite")
                .with_attribute(("name", "differences"));
            suite.write_inner_content(|writer| {
                test(
                    writer,
                    "differences",
                    "listed cases",
                    unknown(report.listed.iter()),
                )?;
                for one in &report.generated {
                    let name = format!("seed {}", one.seed);
                    test(writer, "differences", &name, unknown(one.shrunk.iter()))?;
                }
                let left = (!report.left_behind.is_empty()).then(|| report.left_behind.join("\n"));
                test(writer, "lab", "nothing is left behind", left)
            })?;
            Ok(())
        })?;
    Ok(String::from_utf8(writer.into_inner())?)
}

fn unknown<'a>(differences: impl Iterator<Item = &'a Difference>) -> Option<String> {
    let lines: Vec<_> = differences
        .filter(|difference| difference.meant.is_none())
        .map(ToString::to_string)
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn test(
    writer: &mut Writer<Vec<u8>>,
    class: &str,
    name: &str,
    failure: Option<String>,
) -> std::io::Result<()> {
    let element = writer
        .create_element("testcase")
        .with_attributes([("classname", class), ("name", name)]);
    match failure {
        None => element.write_empty()?,
        Some(text) => element.write_inner_content(|writer| {
            let failure = writer.create_element("failure");
            failure.write_text_content(BytesText::new(&text)).map(drop)
        })?,
    };
    Ok(())
}
