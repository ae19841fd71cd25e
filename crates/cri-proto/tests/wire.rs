//! The wire contract, row by row: what our text compiles to is exactly what the
//! published interface has, and the deprecated v1alpha2 is a subset of it.

use std::collections::{BTreeSet, HashMap};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

const V1: &str = include_str!("../wire/v1.tsv");
const V1ALPHA2: &str = include_str!("../wire/v1alpha2.tsv");

/// The only rows of v1alpha2 that v1 does not have: `value` became `bytes` (the
/// same bytes on the wire), and a message that was empty got fields.
const KNOWN_EXCEPTIONS: [&str; 2] = [
    "message\tKeyValue\tvalue\t2\toptional\tstring",
    "message\tWindowsPodSandboxStats\t-\t-\t-\t-",
];

#[test]
fn descriptors_equal_the_published_table() {
    let ours = rows_of_descriptors();
    let published = rows_of_table(V1);
    let missing = difference(&published, &ours);
    let extra = difference(&ours, &published);
    assert!(
        missing.is_empty() && extra.is_empty(),
        "the interface's text differs from wire/v1.tsv\nmissing from ours:\n{}\nonly in ours:\n{}",
        missing.join("\n"),
        extra.join("\n"),
    );
}

#[test]
fn v1alpha2_is_a_subset_of_v1() {
    let old = rows_of_table(V1ALPHA2);
    let new = rows_of_table(V1);
    let only_old = difference(&old, &new);
    let expected: Vec<&str> = KNOWN_EXCEPTIONS.to_vec();
    assert_eq!(only_old, expected, "rows of wire/v1alpha2.tsv that wire/v1.tsv does not have");
}

#[test]
fn the_changed_field_has_the_same_bytes() {
    /// `KeyValue` as v1alpha2 has it.
    #[derive(Clone, PartialEq, prost::Message)]
    struct OldKeyValue {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(string, tag = "2")]
        value: String,
    }
    let old = OldKeyValue { key: "name".into(), value: "wert ü".into() };
    let bytes = old.encode_to_vec();
    let new = cri_proto::v1::KeyValue::decode(bytes.as_slice()).expect("v1 reads v1alpha2");
    assert_eq!((new.key.as_str(), &new.value[..]), ("name", "wert ü".as_bytes()));
    assert_eq!(new.encode_to_vec(), bytes);
}

fn difference<'a>(left: &'a BTreeSet<String>, right: &'a BTreeSet<String>) -> Vec<&'a str> {
    left.difference(right).map(String::as_str).collect()
}

/// The rows of a table; a row that stands twice is an error in the table.
fn rows_of_table(table: &str) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for line in table.lines().filter(|line| !line.is_empty()) {
        assert!(rows.insert(line.to_owned()), "the table has this row twice: {line}");
    }
    assert!(!rows.is_empty(), "the table is empty");
    rows
}

fn rows_of_descriptors() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(cri_proto::DESCRIPTORS).expect("our own descriptors");
    let mut rows = BTreeSet::new();
    for file in &set.file {
        assert_eq!((file.package(), file.syntax()), ("runtime.v1", "proto3"), "{}", file.name());
        let names = Names { prefix: format!(".{}.", file.package()) };
        for service in &file.service {
            names.service(service, &mut rows);
        }
        for message in &file.message_type {
            names.message("", message, &mut rows);
        }
        for enumeration in &file.enum_type {
            enum_rows("", enumeration, &mut rows);
        }
    }
    rows
}

/// Turns full names of the package into the table's.
struct Names {
    prefix: String,
}

impl Names {
    fn short<'a>(&self, full: &'a str) -> &'a str {
        full.strip_prefix(&self.prefix).unwrap_or(full)
    }

    fn service(&self, service: &ServiceDescriptorProto, rows: &mut BTreeSet<String>) {
        for method in &service.method {
            let mode = match (method.client_streaming(), method.server_streaming()) {
                (false, false) => "unary",
                (false, true) => "stream",
                (true, _) => "client-stream",
            };
            rows.insert(format!(
                "service\t{}\t{}\t{}\t{}\t{mode}",
                service.name(),
                method.name(),
                self.short(method.input_type()),
                self.short(method.output_type()),
            ));
        }
    }

    fn message(&self, outer: &str, message: &DescriptorProto, rows: &mut BTreeSet<String>) {
        let name = format!("{outer}{}", message.name());
        let inner = format!("{name}.");
        let mut maps = HashMap::new();
        for nested in &message.nested_type {
            if nested.options.as_ref().is_some_and(|options| options.map_entry()) {
                maps.insert(format!("{}{inner}{}", self.prefix, nested.name()), nested);
            } else {
                self.message(&inner, nested, rows);
            }
        }
        for nested in &message.enum_type {
            enum_rows(&inner, nested, rows);
        }
        if message.field.is_empty() {
            rows.insert(format!("message\t{name}\t-\t-\t-\t-"));
        }
        for field in &message.field {
            rows.insert(self.field(&name, message, field, &maps));
        }
    }

    fn field(
        &self,
        owner: &str,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        maps: &HashMap<String, &DescriptorProto>,
    ) -> String {
        let (cardinality, kind) = match maps.get(field.type_name()) {
            Some(entry) => {
                let [key, value] = &entry.field[..] else {
                    panic!("a map entry of {owner} does not have two fields");
                };
                ("map".to_owned(), format!("map<{},{}>", self.kind(key), self.kind(value)))
            }
            None => (cardinality(message, field), self.kind(field)),
        };
        let deprecated = field.options.as_ref().is_some_and(|options| options.deprecated());
        format!(
            "message\t{owner}\t{}\t{}\t{cardinality}\t{kind}{}",
            field.name(),
            field.number(),
            if deprecated { "\tdeprecated" } else { "" },
        )
    }

    fn kind(&self, field: &FieldDescriptorProto) -> String {
        match field.r#type() {
            Type::Message | Type::Enum | Type::Group => self.short(field.type_name()).to_owned(),
            scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        }
    }
}

fn cardinality(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    if field.label() == Label::Repeated {
        return "repeated".to_owned();
    }
    match field.oneof_index {
        // A field marked `optional` sits in a oneof of its own that is not on the wire.
        Some(index) if !field.proto3_optional() => {
            let group = usize::try_from(index).ok().and_then(|at| message.oneof_decl.get(at));
            format!("oneof:{}", group.map_or("?", |group| group.name()))
        }
        _ => "optional".to_owned(),
    }
}

fn enum_rows(outer: &str, enumeration: &EnumDescriptorProto, rows: &mut BTreeSet<String>) {
    for value in &enumeration.value {
        rows.insert(format!(
            "enum\t{outer}{}\t{}\t{}",
            enumeration.name(),
            value.name(),
            value.number()
        ));
    }
}
