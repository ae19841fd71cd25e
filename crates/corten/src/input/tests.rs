use cri_proto::v1::{NamespaceMode, Protocol};

use super::*;

const JSON: &str = r#"{
  "metadata": {"name": "web", "namespace": "default", "uid": "u1", "attempt": 1},
  "log_directory": "/tmp/logs",
  "portMappings": [{"protocol": 0, "container_port": 80, "hostPort": 8080}],
  "labels": {"app": "web"},
  "linux": {
    "cgroup_parent": "/corten",
    "security_context": {"namespace_options": {"network": 2, "pid": "CONTAINER"}},
    "resources": {"memoryLimitInBytes": "1048576", "cpu_quota": 5000}
  }
}"#;

const YAML: &str = "
metadata: {name: web, namespace: default, uid: u1, attempt: 1}
log_directory: /tmp/logs
portMappings:
  - protocol: TCP
    containerPort: 80
    host_port: 8080
Labels:
  app: web
linux:
  cgroup_parent: /corten
  security_context:
    namespace_options: {network: NODE, pid: 1}
  resources:
    memory_limit_in_bytes: 1048576
    cpuQuota: 5000
";

#[test]
fn both_forms_and_cases_mean_the_same() {
    let a: Loaded<PodSandboxConfig> = parse(JSON).expect("JSON");
    let b: Loaded<PodSandboxConfig> = parse(YAML).expect("YAML");
    assert_eq!(a.message, b.message);
    assert!(a.warnings.is_empty() && b.warnings.is_empty(), "{:?} {:?}", a.warnings, b.warnings);
    let pod = a.message;
    assert_eq!(pod.log_directory, "/tmp/logs");
    assert_eq!(pod.port_mappings[0].protocol(), Protocol::Tcp);
    assert_eq!(pod.port_mappings[0].host_port, 8080);
    let linux = pod.linux.expect("linux");
    let options = linux.security_context.expect("context").namespace_options.expect("options");
    assert_eq!(options.network(), NamespaceMode::Node);
    assert_eq!(options.pid(), NamespaceMode::Container);
    let resources = linux.resources.expect("resources");
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_quota), (1_048_576, 5000));
}

#[test]
fn environments_are_plain_text_and_scalars_become_text() {
    let text = "
metadata: {name: c}
image: {image: busybox}
command: [sleep, 5]
envs:
  - {key: A, value: plain text}
  - {key: B, value: 7}
  - {key: C}
annotations: {version: 1.5, yes: true}
";
    let config: Loaded<ContainerConfig> = parse(text).expect("YAML");
    let config = config.message;
    let envs: Vec<_> = config.envs.iter().map(|e| (e.key.as_str(), e.value.as_slice())).collect();
    assert_eq!(envs, [("A", b"plain text".as_slice()), ("B", b"7"), ("C", b"")]);
    assert_eq!(config.command, ["sleep", "5"]);
    assert_eq!(config.annotations["version"], "1.5");
}

#[test]
fn what_is_unknown_is_left_out_and_said() {
    let text = r#"{"metadata": {"name": "a", "colour": 1}, "dns": {}, "mounts": [{"x": 1}]}"#;
    let loaded: Loaded<ContainerConfig> = parse(text).expect("JSON");
    assert_eq!(loaded.message.mounts.len(), 1);
    assert_eq!(
        loaded.warnings,
        [
            "`dns` is unknown and ignored",
            "`metadata.colour` is unknown and ignored",
            "`mounts[0].x` is unknown and ignored",
        ],
    );
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.yaml");
    for (text, why) in [
        ("", "has no fields"),
        ("- a\n", "has no fields"),
        ("a: [", "is not a container's configuration"),
        ("{\"metadata\": {\"name\": [1]}}", "is not a container's configuration"),
        ("{}", "has no metadata"),
        ("metadata: {}\n", "has no name in its metadata"),
        ("metadata: {name: a}\n", "names no image"),
    ] {
        fs::write(&path, text).expect("written");
        let error = format!("{:#}", container(&path).expect_err(text));
        assert!(error.contains(why) && error.contains("c.yaml"), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = format!("{:#}", pod(&dir.path().join("none")).expect_err("missing"));
    assert!(error.contains("failed to read") && error.contains("No such file"), "{error}");
}

#[test]
fn a_pod_without_a_uid_gets_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("p.yaml");
    fs::write(&path, "metadata: {name: a, namespace: b}\n").expect("written");
    let uid = || pod(&path).expect("a pod").message.metadata.expect("metadata").uid;
    let (one, two) = (uid(), uid());
    assert_eq!(one.len(), 36);
    assert_ne!(one, two);
}
