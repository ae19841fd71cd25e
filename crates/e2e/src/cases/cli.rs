//! The command line, as a user types it, against any runtime.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use testing::wait::patient;
use tokio::process::Command;

use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{CASE_LABEL, Context, PATIENCE, equal, until};
use crate::runtime::command_line;

pub(super) const CASES: &[Case] = &[
    case!("cli.life_of_a_container", life),
    case!("cli.run_makes_pod_and_container", run),
    case!("cli.lists_are_tables_json_and_yaml", forms),
    case!("cli.logs_follow_tail_and_timestamps", logs),
    case!("cli.failures_say_what_and_end_with_one", failures)
        .differs("its errors do not name the pod"),
    case!("cli.serve_notifies_systemd", notify).alone().ours(),
];

/// Longer than any command here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// The command line on the case's runtime, with files of a pod and a container.
struct Shell<'a> {
    context: &'a Context,
    pod: String,
    container: String,
}

impl<'a> Shell<'a> {
    /// crictl's files: JSON for the pod, YAML for the container.
    fn new(context: &'a Context, name: &str, script: &str) -> Result<Self> {
        let directory = context.directory()?;
        let (pod, container) = (directory.join("pod.json"), directory.join("container.yaml"));
        let logs = context.directory()?;
        let config = json!({
            "metadata": {"name": name, "namespace": "cli", "uid": name, "attempt": 1},
            "log_directory": logs, "labels": {CASE_LABEL: context.name()}, "linux": {},
        });
        fs::write(&pod, config.to_string())?;
        let text = format!(
            "metadata:\n  name: {name}\nimage:\n  image: {BUSYBOX}\nlog_path: c.log\nlinux: {{}}\n\
             command: [sh, -c, \"{script}\"]\n"
        );
        fs::write(&container, text)?;
        let path = |path: std::path::PathBuf| path.display().to_string();
        Ok(Self { context, pod: path(pod), container: path(container) })
    }

    async fn output(&self, arguments: &[&str]) -> Result<Output> {
        let endpoint = format!("unix://{}", self.context.runtime.socket().display());
        let mut command = Command::new(command_line()?);
        command.args(["--runtime-endpoint", &endpoint, "--timeout", "60s"]).args(arguments);
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(patient(LIMIT), command.output()).await;
        Ok(output.with_context(|| format!("{arguments:?} does not end"))??)
    }

    /// Runs a command that must succeed and gives its output without the last newline.
    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments).await?;
        if !output.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(arguments).await?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?}: no JSON: {text}"))
    }

    /// A pod and a container that runs.
    async fn start(&self) -> Result<(String, String)> {
        let pod = self.run(&["runp", &self.pod]).await?;
        let container = self.run(&["create", &pod, &self.container, &self.pod]).await?;
        equal("the started one", self.run(&["start", &container]).await?, container.clone())?;
        Ok((pod, container))
    }
}

const WAIT: &str = "echo ready; trap 'exit 3' TERM; tail -f /dev/null & wait";

async fn life(c: &Context) -> Result<()> {
    let shell = Shell::new(c, "life", WAIT)?;
    let pulled = shell.run(&["pull", BUSYBOX]).await?;
    ensure!(pulled.starts_with("Image is up to date for "), "{pulled}");
    let (pod, container) = shell.start().await?;
    until(PATIENCE, "its first word", || async {
        Ok((shell.run(&["logs", &container]).await? == "ready").then_some(()))
    })
    .await?;
    equal("the output", shell.run(&["exec", &container, "echo", "a b"]).await?, "a b")?;
    // Ids may be short, as crictl's.
    let status = shell.json(&["inspect", &container[..13]]).await?;
    equal("the state", &status["status"]["state"], "CONTAINER_RUNNING")?;
    let status = shell.json(&["inspectp", &pod[..13]]).await?;
    equal("the state", &status["status"]["state"], "SANDBOX_READY")?;
    equal("its attempt", &status["status"]["metadata"]["attempt"], 1)?;

    shell.run(&["stop", "--timeout", "10", &container]).await?;
    let status = shell.json(&["inspect", &container]).await?;
    equal("the code", &status["status"]["exitCode"], 3)?;
    ensure!(!shell.run(&["ps", "--quiet"]).await?.contains(&container), "it is said to run");
    ensure!(shell.run(&["ps", "--all", "--quiet"]).await?.contains(&container), "it is gone");
    shell.run(&["rm", &container]).await?;
    shell.run(&["stopp", &pod]).await?;
    shell.run(&["rmp", &pod]).await?;
    ensure!(!shell.run(&["pods", "--quiet"]).await?.contains(&pod), "the pod is still there");
    Ok(())
}

async fn run(c: &Context) -> Result<()> {
    let shell = Shell::new(c, "run", WAIT)?;
    let container = shell.run(&["run", &shell.container, &shell.pod]).await?;
    let status = shell.json(&["inspect", &container]).await?;
    equal("the state", &status["status"]["state"], "CONTAINER_RUNNING")?;
    let pods = shell.run(&["pods", "--name", "^run$", "--quiet"]).await?;
    equal("the pods", pods.lines().count(), 1)?;
    // By force: the container of it still runs.
    shell.run(&["rmp", "--force", &pods]).await?;
    ensure!(!shell.run(&["ps", "--all", "--quiet"]).await?.contains(&container), "it is there");
    Ok(())
}

async fn forms(c: &Context) -> Result<()> {
    let shell = Shell::new(c, "forms", WAIT)?;
    let (pod, container) = shell.start().await?;
    let table = shell.run(&["ps", "--pod", &pod]).await?;
    let lines: Vec<&str> = table.lines().collect();
    ensure!(lines.len() == 2 && lines[0].starts_with("CONTAINER"), "{table}");
    ensure!(lines[1].starts_with(&container[..13]) && lines[1].contains("Running"), "{table}");
    let list = shell.json(&["ps", "--pod", &pod, "--output", "json"]).await?;
    equal("the id", &list["containers"][0]["id"], container.as_str())?;
    let yaml = shell.run(&["ps", "--pod", &pod, "--output", "yaml"]).await?;
    ensure!(yaml.contains(&format!("id: {container}")), "{yaml}");
    let list = shell.json(&["pods", "--output", "json"]).await?;
    let ids = list["items"].as_array().context("no items")?;
    ensure!(ids.iter().any(|item| item["id"] == pod.as_str()), "{list}");
    let list = shell.json(&["images", "--output", "json"]).await?;
    let images = list["images"].as_array().context("no images")?;
    let named = |image: &&Value| image["repoTags"].to_string().contains("busybox");
    ensure!(images.iter().any(|image| named(&image)), "{list}");
    ensure!(shell.run(&["images"]).await?.starts_with("IMAGE"), "no table of images");
    let version = shell.run(&["version"]).await?;
    ensure!(version.contains("RuntimeApiVersion:  v1"), "{version}");
    Ok(())
}

async fn logs(c: &Context) -> Result<()> {
    let shell = Shell::new(c, "logs", "for i in 1 2 3; do echo line $i; done; echo bad >&2")?;
    let (_, container) = shell.start().await?;
    c.exited(&container).await?;
    equal("all", shell.run(&["logs", &container]).await?, "line 1\nline 2\nline 3")?;
    // One that follows ends with its container.
    let followed = shell.output(&["logs", "--follow", &container]).await?;
    equal("followed", String::from_utf8(followed.stdout)?, "line 1\nline 2\nline 3\n")?;
    equal("errors", String::from_utf8(followed.stderr)?, "bad\n")?;
    let tail = shell.output(&["logs", "--tail", "2", &container]).await?;
    equal("the tail", String::from_utf8(tail.stdout)?, "line 3\n")?;
    let dated = shell.run(&["logs", "--timestamps", &container]).await?;
    for line in dated.lines() {
        let (time, text) = line.split_once(' ').context("no time")?;
        ensure!(time.parse::<jiff::Timestamp>().is_ok() && text.starts_with("line"), "{line}");
    }
    equal(
        "none so new",
        shell.run(&["logs", "--since", "2100-01-01T00:00:00Z", &container]).await?,
        "",
    )
}

async fn failures(c: &Context) -> Result<()> {
    let shell = Shell::new(c, "failures", WAIT)?;
    for (arguments, wanted) in [
        (vec!["inspect", "no-such-container"], "no-such-container"),
        (vec!["inspectp", "no-such-pod"], "no-such-pod"),
        (vec!["pull", "Bad//Name"], "Bad//Name"),
        (vec!["runp", "/no/such/file.json"], "/no/such/file.json"),
        (vec!["create", "no-such-pod", &shell.container, &shell.pod], "no-such-pod"),
    ] {
        let output = shell.output(&arguments).await?;
        let error = String::from_utf8(output.stderr)?;
        equal("the exit code", output.status.code(), Some(1))?;
        ensure!(error.contains(wanted), "{arguments:?}: {error}");
        ensure!(error.trim_end().lines().count() == 1, "more than a line: {error}");
    }
    let (_, container) = shell.start().await?;
    let output = shell.output(&["exec", &container, "sh", "-c", "echo no >&2; exit 7"]).await?;
    equal("the command's code", output.status.code(), Some(7))?;
    equal("its words", String::from_utf8(output.stderr)?, "no\n")
}

/// sd_notify(3): the socket in the environment is told once the daemon serves.
async fn notify(c: &Context) -> Result<()> {
    let directory = c.directory()?;
    let address = directory.join("notify");
    let socket = UnixDatagram::bind(&address)?;
    socket.set_read_timeout(Some(patient(PATIENCE)))?;
    let mut daemon = Command::new(command_line()?);
    daemon.arg("serve").arg("--root").arg(directory.join("root"));
    daemon.arg("--state").arg(directory.join("state"));
    daemon.arg("--config").arg(configuration(c, &directory)?);
    let listen = format!("unix://{}", directory.join("s").display());
    daemon.args(["--listen", &listen]).env("NOTIFY_SOCKET", &address).kill_on_drop(true);
    daemon.stderr(std::process::Stdio::null());
    let mut daemon = daemon.spawn()?;
    let told = tokio::task::spawn_blocking(move || -> Result<Vec<String>> {
        let mut told = Vec::new();
        let mut bytes = [0; 1024];
        while !told.iter().any(|text: &String| text.contains("READY=1")) {
            let length = socket.recv(&mut bytes)?;
            told.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        Ok(told)
    });
    told.await?.context("it was not told")?;
    std::os::unix::net::UnixStream::connect(directory.join("s")).context("it does not serve")?;
    daemon.kill().await?;
    Ok(())
}

/// As the suite's own daemon has it, but that nothing of the machine is touched.
fn configuration(c: &Context, directory: &std::path::Path) -> Result<std::path::PathBuf> {
    let file = directory.join("config.toml");
    let text = format!(
        "[server]\ncontainerd_socket = \"\"\n[network]\nconf_dir = {:?}\nnetns_dir = {:?}\n[cgroups]\nparent = {:?}\n",
        directory.join("cni").display().to_string(),
        directory.join("netns").display().to_string(),
        format!("{}-notify", c.runtime.ground.cgroup()),
    );
    fs::write(&file, text)?;
    Ok(file)
}
