//! Validation of log filters: one rule for every program.

/// The levels of a filter, in any case.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks a log filter: a level, or `target=level`, separated by commas. A word that is not a level
/// would name a target and disable all other logs.
///
/// # Errors
///
/// A sentence with the first invalid part and the valid levels.
pub fn check_log_filter(text: &str) -> Result<(), String> {
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let wrong = text.split(',').find(|part| {
        let level = part.rsplit_once('=').map_or(*part, |(_, level)| level);
        !is_level(level.trim())
    });
    match wrong {
        None => Ok(()),
        Some(part) => Err(format!(
            "'{part}' is neither a level ({}) nor target=level",
            LEVELS.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_levels_are_named() {
        for valid in ["info", "WARN", "off", "sluiced=debug,info", "a::b=trace"] {
            assert_eq!(check_log_filter(valid), Ok(()), "{valid}");
        }
        for (text, part) in [
            ("inof", "'inof'"),
            ("json", "'json'"),
            ("", "''"),
            ("info,sluiced=loud", "'sluiced=loud'"),
            ("sluiced", "'sluiced'"),
        ] {
            let error = check_log_filter(text).unwrap_err();
            assert!(error.starts_with(part), "{error}");
            assert!(error.contains("off, error, warn, info, debug, trace"));
        }
    }
}
