//! Fuzz targets: edits of arbitrary configurations, and their invariants.

use std::path::Path;

use serde_json::Value;

use crate::{
    conf_files::{Files, Plugins},
    conflist,
    entry::Entry,
    fitness,
};

/// A configuration of the container network, single or list.
///
/// # Panics
///
/// If an edit cannot be undone to the byte, or changes anything else.
pub fn conflist(text: &str) {
    let entry = Entry::new(Path::new(sluice_api::SOCKET));
    let (files, plugins) = (Files::new(), Plugins::new());
    let list = if fitness::of_list(text, &files, &plugins).is_ok() {
        text.to_owned()
    } else if fitness::of_single(text, &plugins).is_ok()
        && let Ok(list) = conflist::conf_to_conflist(text, "10-x.conf")
    {
        list
    } else {
        return;
    };
    let Ok(chained) = conflist::with_entry(&list, &entry) else {
        return;
    };
    assert!(fitness::of_list(&chained, &files, &plugins).is_ok());
    assert!(conflist::entry(&chained).is_some());
    assert_eq!(
        conflist::with_entry(&chained, &entry).as_deref().ok(),
        Some(&*chained)
    );
    // An entry that is the first plugin is removed for good.
    if conflist::without_entry(&list) == list {
        assert_eq!(conflist::without_entry(&chained), list);
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        let mut undone = parse(&chained);
        if let Some(plugins) = undone
            .as_mut()
            .and_then(|value| value["plugins"].as_array_mut())
        {
            plugins.pop();
        }
        assert_eq!(undone, parse(&list));
    }
}
