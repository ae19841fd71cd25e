//! Exec, attach and port-forward by clients of others: Kubernetes' own Python client over
//! WebSocket, and Node's SPDY.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::PortForwardRequest;
use serde_json::{Value, json};
use streaming::Streams;

use super::streaming::{attach_address, exec_address, served};
use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, equal};

pub(super) const CASES: &[Case] = &[
    case!("streaming.kubernetes_python_executes", python_exec).needs(&[Need::Workshop]),
    case!("streaming.kubernetes_python_attaches", python_attach).needs(&[Need::Workshop]),
    case!("streaming.kubernetes_python_forwards", python_forward).needs(&[Need::Workshop]),
    case!("streaming.node_spdy_executes", node_exec)
        .needs(&[Need::Workshop])
        .differs("1.6 acknowledges no bytes to who waits for that"),
    case!("streaming.node_spdy_attaches", node_attach)
        .needs(&[Need::Workshop])
        .differs("1.6 closes the connection under its client"),
    case!("streaming.node_spdy_forwards", node_forward).needs(&[Need::Workshop]),
];

const OUTPUTS: Streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
const ALL: Streams = Streams { stdin: true, ..OUTPUTS };

/// What a script of this project prints.
fn script(name: &str) -> Result<String> {
    let path = format!("{}/../../scripts/{name}", env!("CARGO_MANIFEST_DIR"));
    Ok(testing::program::output(&mut Command::new(path))?.trim().to_owned())
}

async fn run(mut command: Command) -> Result<Value> {
    let ran = tokio::task::spawn_blocking(move || testing::program::output(&mut command));
    let text = ran.await??;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

/// Runs a program with Kubernetes' client; it leaves its result in `result`.
async fn python(program: &str, arguments: &[&str]) -> Result<Value> {
    let begin = "import json, sys\n\
        from kubernetes.client import Configuration\n\
        from kubernetes.stream import ws_client\n\
        url = sys.argv[1].replace('http', 'ws', 1)\n";
    let end = "\nprint(json.dumps(result))\n";
    let mut command = Command::new(script("python-env")?);
    command.args(["-c", &format!("{begin}{program}{end}")]).args(arguments);
    run(command).await
}

async fn node(arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cases/spdy.js"));
    command.args(arguments).env("NODE_PATH", script("node-env")?);
    run(command).await
}

const EXEC: &str = r#"
client = ws_client.WSClient(Configuration(), url, None, False)
if len(sys.argv) > 2:
    client.write_stdin(sys.argv[2])
client.run_forever(timeout=30)
result = {"out": client.read_stdout(), "err": client.read_stderr(), "code": client.returncode}
"#;

async fn python_exec(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let command = ["sh", "-c", "printf hello; printf error >&2; exit 7"];
    let address = exec_address(c, &id, &command, OUTPUTS).await?;
    let result = python(EXEC, &[&address]).await?;
    equal("what it saw", result, json!({"out": "hello", "err": "error", "code": 7}))?;
    let command = ["sh", "-c", "read line; echo got $line"];
    let address = exec_address(c, &id, &command, ALL).await?;
    let result = python(EXEC, &[&address, "words\n"]).await?;
    equal("what it saw", result, json!({"out": "got words\n", "err": "", "code": 0}))
}

async fn python_attach(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = cri_proto::v1::ContainerConfig {
        stdin: true,
        ..c.script("read line; echo got $line; echo oh >&2")
    };
    let id = c.run(&pod, &config).await?;
    let address = attach_address(c, &id, ALL).await?;
    let result = python(EXEC, &[&address, "words\n"]).await?;
    equal("what it saw", result, json!({"out": "got words\n", "err": "oh\n", "code": 0}))
}

async fn forward_address(c: &Context, pod: &str, port: Vec<i32>) -> Result<String> {
    let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port };
    Ok(c.runtime.pods.port_forward(request).await?.url)
}

async fn python_forward(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    served(c, &pod, "127.0.0.1", 8084).await?;
    let address = forward_address(c, &pod.id, vec![8084, 4445]).await?;
    let program = r#"
socket = ws_client.create_websocket(Configuration(), url)
forward = ws_client.PortForward(socket, [8084, 4445])
talk = forward.socket(8084)
talk.setblocking(True)
talk.sendall(b"GET / HTTP/1.0\r\nHost: pod\r\n\r\n")
answer = b""
while not answer.endswith(b"page of 8084\n"):
    piece = talk.recv(4096)
    if not piece:
        break
    answer += piece
import time
until = time.monotonic() + 30
while not forward.error(4445) and time.monotonic() < until:
    time.sleep(0.05)
result = {"answer": answer.decode(), "error": forward.error(4445), "no": forward.error(8084)}
"#;
    let result = python(program, &[&address]).await?;
    let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
    ensure!(text("answer").ends_with("page of 8084\n"), "{result}");
    ensure!(text("error").contains("4445"), "{result}");
    equal("the other error", &result["no"], &Value::Null)
}

async fn node_exec(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let command = ["sh", "-c", "cat; printf error >&2; exit 7"];
    let address = exec_address(c, &id, &command, ALL).await?;
    let input = "x".repeat(100_000);
    let arguments = [&address, "exec", &input, "error", "stdin", "stdout", "stderr"];
    let result = node(&arguments).await?;
    equal("the output", result["stdout"].as_str(), Some(&*input))?;
    equal("the errors", &result["stderr"], "error")?;
    let end: Value = serde_json::from_str(result["error"].as_str().unwrap_or_default())?;
    equal("the reason", &end["reason"], "NonZeroExitCode")?;
    equal("the code", &end["details"]["causes"][0]["message"], "7")?;
    let address = exec_address(c, &id, &["seq", "1", "100000"], OUTPUTS).await?;
    let result = node(&[&address, "exec", "", "error", "stdout", "stderr"]).await?;
    let wanted: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    ensure!(result["stdout"].as_str() == Some(&wanted), "lines are missing, or out of order");
    let end: Value = serde_json::from_str(result["error"].as_str().unwrap_or_default())?;
    equal("the status", &end["status"], "Success")
}

async fn node_attach(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = cri_proto::v1::ContainerConfig {
        stdin: true,
        stdin_once: true,
        ..c.script("cat; echo oh >&2")
    };
    let id = c.run(&pod, &config).await?;
    let address = attach_address(c, &id, ALL).await?;
    let result = node(&[&address, "exec", "words\n", "error", "stdout", "stderr", "stdin"]).await?;
    equal("the output", &result["stdout"], "words\n")?;
    equal("the errors", &result["stderr"], "oh\n")
}

async fn node_forward(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    served(c, &pod, "127.0.0.1", 8085).await?;
    let get = "GET / HTTP/1.0\r\nHost: pod\r\n\r\n";
    let address = forward_address(c, &pod.id, Vec::new()).await?;
    let result = node(&[&address, "ports", "8085", get, get, get]).await?;
    let answers = result.as_array().context("no answers")?;
    equal("the answers", answers.len(), 3)?;
    for one in answers {
        let answer = one["answer"].as_str().unwrap_or_default();
        ensure!(answer.ends_with("page of 8085\n"), "{one}");
        equal("its error", &one["error"], "")?;
    }
    let address = forward_address(c, &pod.id, Vec::new()).await?;
    let result = node(&[&address, "ports", "4446", get]).await?;
    let error = result[0]["error"].as_str().unwrap_or_default();
    ensure!(error.contains("4446"), "{result}");
    Ok(())
}
