//! The README's table of fields is the interface's, and names cases that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};

const README: &str = include_str!("../../../README.md");

/// What a pod and a container may ask for.
const MESSAGES: [&str; 24] = [
    "PodSandboxConfig",
    "PodSandboxMetadata",
    "DNSConfig",
    "PortMapping",
    "LinuxPodSandboxConfig",
    "UpdatePodSandboxResourcesRequest",
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

fn messages() -> BTreeMap<String, DescriptorProto> {
    let set = FileDescriptorSet::decode(cri_proto::DESCRIPTORS).expect("descriptors");
    let all = set.file.into_iter().flat_map(|file| file.message_type);
    all.map(|message| (message.name().to_owned(), message)).collect()
}

/// All fields of the messages, as the interface's own text names them.
fn fields() -> BTreeSet<String> {
    let messages = messages();
    let of = |name: &&str| {
        let message = messages.get(*name).unwrap_or_else(|| panic!("no message {name}"));
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
            let exists = match case.split("::").collect::<Vec<_>>()[..] {
                [krate, file, test] => is_test_of_a_crate(krate, file, test),
                _ => cases.contains(case.as_str()),
            };
            assert!(exists, "{field} names {case}, which is no case");
        }
    }
}

/// Whether a crate has a test of that name in a file of its source or tests.
fn is_test_of_a_crate(krate: &str, file: &str, test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate.replace('_', "-"));
    ["src", "tests"].iter().any(|dir| {
        let text = fs::read_to_string(root.join(dir).join(format!("{file}.rs")));
        text.is_ok_and(|text| text.contains(&format!("fn {test}()")))
    })
}

/// Every message that a pod or a container may ask for something with has its rows.
#[test]
fn no_message_is_left_out() {
    let messages = messages();
    let mut open = vec!["PodSandboxConfig".to_owned(), "ContainerConfig".to_owned()];
    let mut found = BTreeSet::new();
    while let Some(name) = open.pop() {
        let fields = messages.get(&name).map(|message| message.field.iter()).into_iter().flatten();
        let below = fields.filter_map(|field| field.type_name().rsplit('.').next());
        let below = below.filter(|name| messages.contains_key(*name));
        open.extend(below.filter(|name| !found.contains(*name)).map(str::to_owned));
        found.insert(name);
    }
    let known: BTreeSet<String> = MESSAGES.iter().map(|name| (*name).to_owned()).collect();
    let has_rows = |name: &&String| !name.starts_with("Windows") && !is_wrapper(name);
    let missing: Vec<_> = found.difference(&known).filter(has_rows).collect();
    assert!(missing.is_empty(), "messages without rows: {missing:?}");
}

/// A number that may be absent has nothing but its value.
fn is_wrapper(name: &str) -> bool {
    matches!(name, "Int64Value" | "UInt64Value")
}

#[test]
fn the_parts_are_there() {
    let section = section();
    for heading in HEADINGS {
        assert!(section.lines().any(|line| line == heading), "no heading {heading}");
    }
}
