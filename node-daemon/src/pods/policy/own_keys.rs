//! Sluice's own annotations. Their prefix belongs to no mesh, so an unknown one is a mistake: a setting
//! that the Pod would not have.

use sluice_api::INTERCEPT;

use super::{
    Annotations, Error,
    stated::{BEFORE_PROXY, FAMILIES, GID, UID},
};
use crate::pods::acceleration;

const PREFIX: &str = "sluice.io/";
const KNOWN: [&str; 6] = [
    acceleration::ANNOTATION,
    INTERCEPT,
    UID,
    GID,
    FAMILIES,
    BEFORE_PROXY,
];

/// An unknown annotation of Sluice, and the known one that is most similar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownKey<'a> {
    /// The annotation.
    pub(crate) key: &'a str,
    /// The known annotation.
    pub(crate) nearest: &'static str,
}

/// The first unknown annotation of Sluice, if there is one.
pub(crate) fn unknown(annotations: &Annotations) -> Option<UnknownKey<'_>> {
    let mut own = annotations.keys().filter(|key| key.starts_with(PREFIX));
    let key = own.find(|key| !KNOWN.contains(&key.as_str()))?;
    let distance = |known: &&&str| strsim::levenshtein(known, key);
    let nearest = KNOWN.iter().min_by_key(distance).copied()?;
    Some(UnknownKey { key, nearest })
}

/// The annotations without the unknown ones of Sluice.
pub(crate) fn without_unknown(annotations: &Annotations) -> Annotations {
    let is_known = |key: &str| !key.starts_with(PREFIX) || KNOWN.contains(&key);
    let known = annotations.iter().filter(|(key, _)| is_known(key));
    known
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Rejects an unknown annotation of Sluice.
pub(super) fn check(annotations: &Annotations) -> Result<(), Error> {
    match unknown(annotations) {
        None => Ok(()),
        Some(UnknownKey { key, nearest }) => Err(Error::NotOwn {
            key: key.to_owned(),
            nearest,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_key_names_the_nearest() {
        for (key, nearest) in [
            ("sluice.io/interceptt", INTERCEPT),
            ("sluice.io/proxy-user-id", UID),
            ("sluice.io/Families", FAMILIES),
        ] {
            let annotations = [(key.to_owned(), String::new())].into();
            assert_eq!(unknown(&annotations), Some(UnknownKey { key, nearest }));
        }
        let known = KNOWN.map(|key| (key.to_owned(), String::new())).into();
        assert_eq!(unknown(&known), None);
        let others = ["sluice.io", "example.com/sluice.io/x", "sluice.iox/y"];
        let others = others.map(|key| (key.to_owned(), String::new())).into();
        assert_eq!(unknown(&others), None);
    }
}
