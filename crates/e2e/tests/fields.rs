//! The README's table of fields is the interface's, and names cases that exist.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const README: &str = include_str!("../../../README.md");

/// What a pod and a container may ask for.
const MESSAGES: [&str; 23] = [
    "PodSandboxConfig",
    "PodSandboxMetadata",
    "DNSConfig",
    "PortMapping",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "ContainerConfig",
    "ContainerMetadata",
    "ImageSpec",
    "KeyValue",
    "LinuxContainerConfig",
    "LinuxContainerSecurityContext",
    "Capability",
    "SecurityProfile",
    "SELinuxOption",
    "Device",
    "CDIDevice",
    "LinuxContainerResources",
    "HugepageLimit",
    "NamespaceOption",
    "UserNamespace",
    "IDMapping",
    "Mount",
];

/// Fields without an effect, and so without a case.
const NOT_LINUX: [&str; 2] = ["PodSandboxConfig.windows", "ContainerConfig.windows"];

/// The parts of the table.
const HEADINGS: [&str; 5] =
    ["### Pod", "### Container", "### Security", "### Resources", "### Namespaces and mounts"];

fn section() -> &'static str {
    let begin = README.find("\n## Fields\n").expect("the README has a table of fields");
    let rest = &README[begin + 1..];
    let end = rest[1..].find("\n## ").map_or(rest.len(), |at| at + 1);
    &rest[..end]
}

/// The fields that have a row, and the cases that the row names.
fn rows() -> Vec<(String, Vec<String>)> {
    let rows = section().lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{line}");
        assert!(!cells[1].is_empty(), "it does not say what the field does: {line}");
        let texts = |cell: &str| -> Vec<String> {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let field = texts(cells[0]).pop().expect("a field");
        (field, texts(cells[2]))
    })
    .collect()
}

/// All fields of the messages, as the interface's own text names them.
fn fields() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(cri_proto::DESCRIPTORS).expect("descriptors");
    let messages: BTreeMap<&str, _> = set
        .file
        .iter()
        .flat_map(|file| &file.message_type)
        .map(|message| (message.name(), message))
        .collect();
    let of = |name: &&str| {
        let message = messages.get(name).unwrap_or_else(|| panic!("no message {name}"));
        let fields = message.field.iter().map(|field| format!("{name}.{}", field.name()));
        fields.collect::<Vec<_>>()
    };
    MESSAGES.iter().flat_map(of).collect()
}

#[test]
fn every_field_has_one_row() {
    let rows: Vec<String> = rows().into_iter().map(|(field, _)| field).collect();
    let known: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(known.len(), rows.len(), "a field has two rows");
    let fields = fields();
    let missing: Vec<_> = fields.difference(&known).collect();
    let unknown: Vec<_> = known.difference(&fields).collect();
    assert!(missing.is_empty(), "fields without a row: {missing:?}");
    assert!(unknown.is_empty(), "rows of no field: {unknown:?}");
}

#[test]
fn every_row_names_cases_that_exist() {
    let cases: BTreeSet<&str> = e2e::cases::all().iter().map(|case| case.name).collect();
    for (field, named) in rows() {
        let without = NOT_LINUX.contains(&field.as_str());
        assert_eq!(named.is_empty(), without, "{field} names no case, or needs none");
        for case in named {
            assert!(cases.contains(case.as_str()), "{field} names {case}, which is no case");
        }
    }
}

#[test]
fn the_parts_are_there() {
    let section = section();
    for heading in HEADINGS {
        assert!(section.lines().any(|line| line == heading), "no heading {heading}");
    }
}
