mod multus;

use std::path::Path;

use proptest::prelude::*;

use super::*;

const LIST: &str = r#"{"name":"n","plugins":[{"type":"calico"}]}"#;
const SINGLE: &str = r#"{"name":"s","type":"bridge"}"#;

fn entry() -> Entry {
    Entry::new(Path::new(sluice_api::SOCKET))
}

fn files(rows: &[(&str, &str)]) -> Files {
    let own = |&(name, text): &(&str, &str)| (name.to_owned(), text.to_owned());
    rows.iter().map(own).collect()
}

fn chained(text: &str) -> String {
    conflist::with_entry(text, &entry()).unwrap()
}

/// The directory and the journal.
#[derive(Clone, Debug, Default)]
struct Node {
    files: Files,
    changes: Vec<Change>,
}

impl Node {
    fn new(rows: &[(&str, &str)]) -> Self {
        Self {
            files: files(rows),
            changes: Vec::new(),
        }
    }

    /// A run that is killed after so many steps.
    fn run_killed(&mut self, mode: Option<Mode>, taken: usize) -> Result<(), Error> {
        let pristine = pristine(&self.files, &self.changes);
        let target = match mode {
            Some(mode) => target(&pristine, &self.files, &Plugins::new(), mode, &entry())?,
            None => pristine.clone(),
        };
        let after = changes(&pristine, &target);
        self.changes = [&after[..], &self.changes].concat();
        let steps = steps(&self.files, &target);
        for step in steps.iter().take(taken) {
            self.apply(step);
        }
        if taken >= steps.len() {
            assert_eq!(self.files, target);
            self.changes = after;
        }
        Ok(())
    }

    fn run(&mut self, mode: Option<Mode>) {
        self.run_killed(mode, usize::MAX).unwrap();
    }

    fn apply(&mut self, step: &Step) {
        match step.clone() {
            Step::Write { name, text } => drop(self.files.insert(name, text)),
            Step::Remove { name } => drop(self.files.remove(&name).unwrap()),
        }
    }
}

fn selected(node: &Node) -> Option<String> {
    select::select(&node.files, &Plugins::new())
        .first()
        .map(str::to_owned)
}

#[test]
fn entry_is_in_the_file_that_the_runtime_uses() {
    let rows = [
        (
            Mode::Chained,
            "10-calico.conflist",
            LIST,
            "10-calico.conflist",
        ),
        (Mode::Chained, "10-x.conf", SINGLE, "10-x-sluice.conflist"),
        (Mode::Chained, "10-x.json", SINGLE, "10-x-sluice.conflist"),
        (Mode::Standalone, "10-calico.conflist", LIST, STANDALONE),
        (Mode::Standalone, "00-x.conf", SINGLE, STANDALONE),
    ];
    for (mode, name, text, expected) in rows {
        let mut node = Node::new(&[(name, text), ("99-other.conflist", LIST)]);
        let before = node.files.clone();
        node.run(Some(mode));
        assert_eq!(selected(&node).as_deref(), Some(expected), "{name}");
        assert!(conflist::entry(&node.files[expected]).is_some());
        let done = node.clone().files;
        node.run(Some(mode));
        assert_eq!(node.files, done, "a second run changes nothing");
        node.run(None);
        assert_eq!(node.files, before);
        assert!(node.changes.is_empty());
    }
}

#[test]
fn the_entry_follows_when_another_network_takes_precedence() {
    let mut node = Node::new(&[("50-b.conflist", LIST)]);
    node.run(Some(Mode::Chained));
    node.files.insert("10-a.conf".to_owned(), SINGLE.to_owned());
    node.run(Some(Mode::Chained));
    assert_eq!(node.files["50-b.conflist"], LIST);
    assert!(node.files.contains_key("10-a-sluice.conflist"));
    node.run(Some(Mode::Standalone));
    let expected = ["00-00-sluice.conflist", "10-a.conf", "50-b.conflist"];
    assert!(node.files.keys().eq(expected));
    node.files.remove("10-a.conf");
    node.run(Some(Mode::Standalone));
    assert_eq!(node.files[STANDALONE], chained(LIST));
    node.files.remove("50-b.conflist");
    node.run(Some(Mode::Standalone));
    assert!(
        node.files.is_empty(),
        "a node whose network was withdrawn has none"
    );
}

#[test]
fn external_edits_are_kept() {
    let mut node = Node::new(&[("a.conflist", LIST)]);
    node.run(Some(Mode::Chained));
    let edited = LIST.replace("calico", "cilium-cni");
    node.files
        .insert("a.conflist".to_owned(), format!("{}\n", chained(&edited)));
    node.run(None);
    assert_eq!(node.files, files(&[("a.conflist", &format!("{edited}\n"))]));

    node.run(Some(Mode::Chained));
    node.files.remove("a.conflist");
    node.run(None);
    assert!(
        node.files.is_empty(),
        "what others have removed is not brought back"
    );
}

#[test]
fn derived_list_follows_its_file_and_keeps_what_others_add() {
    for (mode, list) in [
        (Mode::Chained, "a-sluice.conflist"),
        (Mode::Standalone, STANDALONE),
    ] {
        let mut node = Node::new(&[("a.conf", SINGLE)]);
        node.run(Some(mode));
        let added = conflist::append(&node.files[list], r#"{"type":"istio-cni"}"#).unwrap();
        node.files.insert(list.to_owned(), added);
        let newer = SINGLE.replace("bridge", "ptp");
        node.files.insert("a.conf".to_owned(), newer.clone());
        for _ in 0..2 {
            node.run(Some(mode));
            let kinds = conflist::kinds(&node.files[list]);
            assert_eq!(kinds, ["ptp", "sluice-cni", "istio-cni"]);
        }
        let others = pristine(&node.files, &node.changes);
        let foreign = with_foreign_plugins(&node.files, &others);
        assert_eq!(foreign, [(list.to_owned(), "istio-cni".to_owned())]);
        node.run(None);
        assert_eq!(node.files, files(&[("a.conf", &newer)]));
    }
}

#[test]
fn derived_list_goes_with_its_file_unless_others_took_it_over() {
    let mut node = Node::new(&[("a.conf", SINGLE), ("b.conflist", LIST)]);
    node.run(Some(Mode::Chained));
    node.files.remove("a.conf");
    node.run(Some(Mode::Chained));
    assert_eq!(node.files, files(&[("b.conflist", &chained(LIST))]));

    let mut node = Node::new(&[("a.conf", SINGLE)]);
    node.run(Some(Mode::Chained));
    node.files.remove("a.conf");
    node.files
        .insert("a-sluice.conflist".to_owned(), LIST.to_owned());
    node.run(Some(Mode::Chained));
    node.run(None);
    assert_eq!(node.files, files(&[("a-sluice.conflist", LIST)]));

    let mut node = Node::new(&[("10-sluice.conflist", &chained(LIST))]);
    node.run(Some(Mode::Chained));
    node.run(None);
    assert_eq!(node.files, files(&[("10-sluice.conflist", LIST)]));
}

#[test]
fn every_candidate_carries_the_entry() {
    let doubtful = r#"{"name":"d","disableCheck":"true","plugins":[{"type":"calico"}]}"#;
    let plugins = Plugins::from(["calico".to_owned()]);
    let before = files(&[
        ("a.conflist", doubtful),
        ("b.conflist", LIST),
        ("c.conflist", LIST),
    ]);
    for (mode, configs_with_entry) in [
        (Mode::Chained, ["a.conflist", "b.conflist"]),
        (Mode::Standalone, [STANDALONE, "b.conflist"]),
    ] {
        let target = target(&before, &before, &plugins, mode, &entry()).unwrap();
        let carrying = target
            .keys()
            .filter(|name| super::entry(name, &target).is_some());
        assert!(carrying.eq(configs_with_entry), "{target:?}");
    }
}

#[test]
fn folder_of_plugins_gets_a_file_of_its_own() {
    let rows = [
        ("a.conflist", r#"{"name":"n"}"#),
        ("n/10-bridge.conf", SINGLE),
    ];
    let mut node = Node::new(&rows);
    node.run(Some(Mode::Chained));
    assert_eq!(node.files.len(), 3);
    assert!(node.files.keys().last().unwrap() == "n/~sluice-cni.conf");
    assert!(super::entry("a.conflist", &node.files).is_some());
    let done = node.clone().files;
    node.run(Some(Mode::Chained));
    assert_eq!(node.files, done);
    node.changes.clear();
    node.run(None);
    assert_eq!(node.files, files(&rows));
}

#[test]
fn a_hand_made_entry_counts_as_sluices() {
    let mut node = Node::new(&[("a.conflist", &chained(LIST))]);
    let before = node.files.clone();
    node.run(Some(Mode::Chained));
    assert_eq!(node.files, before);
    node.run(None);
    assert_eq!(node.files["a.conflist"], LIST);
}

#[test]
fn uninstall_recognises_files_without_recorded_state() {
    for mode in [Mode::Chained, Mode::Standalone] {
        for (name, text) in [("a.conf", SINGLE), ("a.conflist", LIST)] {
            for taken in 0..4 {
                let mut node = Node::new(&[(name, text)]);
                node.run_killed(Some(mode), taken).unwrap();
                node.changes.clear();
                node.run(None);
                assert_eq!(
                    node.files,
                    files(&[(name, text)]),
                    "{mode:?}, {taken} steps"
                );
            }
        }
    }
}

#[test]
fn conflicting_files_are_named() {
    let rows: [(_, &[_], _); 2] = [
        (
            Mode::Chained,
            &[("a.conf", SINGLE), ("a-sluice.conflist", "{")],
            "a-sluice.conflist is in",
        ),
        (
            Mode::Standalone,
            &[("00-00-a.conflist", LIST)],
            "00-00-a.conflist sorts before",
        ),
    ];
    for (mode, files, part) in rows {
        let error = Node::new(files).run_killed(Some(mode), 0).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// A change by another program.
#[derive(Clone, Debug)]
enum Event {
    Write(&'static str, &'static str),
    Remove(&'static str),
    Run(Option<Mode>, usize),
}

fn event() -> impl Strategy<Value = Event> {
    let file = prop::sample::select(vec![
        ("10-a.conf", SINGLE),
        ("10-a.conf", "{\"type\":\"ptp\",\r\n\"name\":\"t\"}"),
        ("10-a.conf", "{"),
        ("20-b.conflist", LIST),
        ("20-b.conflist", WITH_ENTRY),
        ("30-c.json", SINGLE),
    ]);
    let mode = prop::sample::select(vec![None, Some(Mode::Chained), Some(Mode::Standalone)]);
    let taken = prop_oneof![Just(usize::MAX), 0..4_usize];
    prop_oneof![
        2 => file.clone().prop_map(|(name, text)| Event::Write(name, text)),
        1 => file.prop_map(|(name, _)| Event::Remove(name)),
        4 => (mode, taken).prop_map(|(mode, taken)| Event::Run(mode, taken)),
    ]
}

const WITH_ENTRY: &str =
    r#"{"name":"e","plugins":[{"type":"ptp"},{"type":"sluice-cni"},{"type":"tuning"}]}"#;

proptest! {
    /// The network of others, as they see it, is never lost: neither by runs that are killed at
    /// any step nor by anything that others do in between.
    #[test]
    fn uninstall_keeps_edits_by_others(events in prop::collection::vec(event(), 0..16)) {
        let (mut node, mut others) = (Node::default(), Files::new());
        for event in events {
            match event {
                Event::Write(name, text) => {
                    node.files.insert(name.to_owned(), text.to_owned());
                    others.insert(name.to_owned(), conflist::without_entry(text));
                }
                Event::Remove(name) => {
                    node.files.remove(name);
                    others.remove(name);
                }
                Event::Run(mode, taken) => node.run_killed(mode, taken).unwrap(),
            }
            prop_assert_eq!(&pristine(&node.files, &node.changes), &others);
        }
        node.run(None);
        prop_assert_eq!(node.files, others);
    }
}
