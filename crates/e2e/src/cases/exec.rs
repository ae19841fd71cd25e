//! ExecSync.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cri_client::Code;
use testing::wait::patient;

use crate::case;
use crate::case::Case;
use crate::context::{Context, PATIENCE, code, equal, refusal, security, until};

pub(super) const CASES: &[Case] = &[
    case!("exec.output_and_code", output),
    case!("exec.binary_output", binary),
    case!("exec.missing_command_is_refused", missing),
    case!("exec.timeout_is_said_and_kills", timeout),
    case!("exec.timeout_kills_grandchildren", timeout_kills_all)
        .differs("1.6 kills only the first process"),
    case!("exec.no_timeout_waits", no_timeout),
    case!("exec.output_is_capped", cap).differs("1.6 has no cap"),
    case!("exec.sees_what_the_container_sees", surroundings),
    case!("exec.child_holds_the_output", held_output).differs("1.6 waits for the output's end"),
    case!("exec.many_at_once", many),
    case!("exec.in_an_ended_container_is_refused", ended),
    case!("exec.empty_command_is_refused", empty),
    case!("exec.leaves_no_processes", no_processes),
];

async fn output(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let command = ["sh", "-c", "printf hello; printf error >&2; exit 7"];
    let answer = c.exec_for(&id, &command, 10).await?;
    equal("standard output", &answer.stdout[..], &b"hello"[..])?;
    equal("standard error", &answer.stderr[..], &b"error"[..])?;
    equal("the code", answer.exit_code, 7)?;
    let answer = c.exec_for(&id, &["sh", "-c", "kill -9 $$"], 10).await?;
    equal("the code of a killed one", answer.exit_code, 137)
}

async fn binary(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let answer = c.exec_for(&id, &["printf", "\\000\\377\\n\\r\\200"], 10).await?;
    equal("the output", &answer.stdout[..], &b"\x00\xff\n\r\x80"[..])
}

async fn missing(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let error = refusal(c.exec_for(&id, &["/no/such/program"], 10).await)?.to_string();
    ensure!(error.contains("/no/such/program"), "it does not say what: {error}");
    Ok(())
}

async fn timeout(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let begun = Instant::now();
    let result = c.exec_for(&id, &["sleep", "4321"], 1).await;
    equal("the code", code(result)?, Code::DeadlineExceeded)?;
    ensure!(begun.elapsed() < patient(Duration::from_secs(10)), "it took {:?}", begun.elapsed());
    gone(c, &id, "[s]leep 4321").await
}

async fn timeout_kills_all(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let script = "sleep 4322 & setsid sleep 4323 & sleep 4324";
    let result = c.exec_for(&id, &["sh", "-c", script], 1).await;
    equal("the code", code(result)?, Code::DeadlineExceeded)?;
    gone(c, &id, "[s]leep 432[234]").await
}

async fn gone(c: &Context, id: &str, pattern: &str) -> Result<()> {
    let looked = format!("ps -o args | grep '{pattern}' || true");
    until(Duration::from_secs(5), "the end of what timed out", || async {
        Ok(c.sh(id, &looked).await?.is_empty().then_some(()))
    })
    .await
}

async fn no_timeout(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let answer = c.exec_for(&id, &["sh", "-c", "sleep 2; echo done"], 0).await?;
    equal("the output", &answer.stdout[..], &b"done\n"[..])
}

async fn cap(c: &Context) -> Result<()> {
    const LIMIT: usize = 16 << 20;
    let (_, id) = c.waiting_container().await?;
    let script = "head -c 12000000 /dev/zero; head -c 12000000 /dev/zero >&2; exit 3";
    let answer = c.exec_for(&id, &["sh", "-c", script], 60).await?;
    let size = answer.stdout.len() + answer.stderr.len();
    ensure!(size < LIMIT, "{size} bytes do not fit into the client's message");
    ensure!(size > LIMIT / 4, "only {size} bytes");
    equal("the code", answer.exit_code, 3)
}

async fn surroundings(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.envs.push(cri_proto::v1::KeyValue { key: "OWN".to_owned(), value: "yes".into() });
    config.working_dir = "/var/www".to_owned();
    let security = security(&mut config)?;
    security.run_as_user = Some(cri_proto::v1::Int64Value { value: 33 });
    security.supplemental_groups = vec![1234];
    let id = c.run(&pod, &config).await?;
    equal(
        "who and where",
        c.sh(&id, "echo $OWN $(pwd) $(id -u) $(id -G)").await?,
        "yes /var/www 33 33 1234",
    )?;
    let both =
        "readlink /proc/1/ns/mnt /proc/1/ns/pid; readlink /proc/self/ns/mnt /proc/self/ns/pid";
    let root = c.sh(&id, both).await;
    // Another user may not read the first process's links; then there is nothing to compare.
    if let Ok(text) = root {
        let lines: Vec<&str> = text.lines().collect();
        equal("the namespaces", &lines[..2], &lines[2..])?;
    }
    let caps = "grep -E 'Cap(Eff|Bnd)|Seccomp:|NoNewPrivs' /proc/1/status > /tmp/a; grep -E 'Cap(Eff|Bnd)|Seccomp:|NoNewPrivs' /proc/self/status | diff /tmp/a -";
    equal("the restrictions", c.sh(&id, caps).await?, "")
}

async fn held_output(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let begun = Instant::now();
    let answer = c.exec_for(&id, &["sh", "-c", "sleep 600 & echo hi"], 30).await?;
    equal("the output", &answer.stdout[..], &b"hi\n"[..])?;
    ensure!(begun.elapsed() < patient(Duration::from_secs(20)), "it took {:?}", begun.elapsed());
    Ok(())
}

async fn many(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    let ran = (0..20).map(|number| {
        let id = id.clone();
        async move {
            let text =
                c.sh(&id, &format!("echo {number}; head -c 100000 /dev/zero | wc -c")).await?;
            equal("the output", text, format!("{number}\n100000"))
        }
    });
    futures_util::future::try_join_all(ran).await?;
    Ok(())
}

async fn ended(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let ended = c.run(&pod, &c.script("true")).await?;
    c.exited(&ended).await?;
    refusal(c.exec_for(&ended, &["true"], 5).await)?;
    let created = c.create(&pod, &c.waiting()).await?;
    refusal(c.exec_for(&created, &["true"], 5).await)?;
    Ok(())
}

async fn empty(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    refusal(c.exec_for(&id, &[], 5).await)?;
    Ok(())
}

async fn no_processes(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    // The container's own: the shell, tail, and the two that count.
    let count = "ps -o pid,stat | tail -n +2 | wc -l";
    let before = c.sh(&id, count).await?;
    for _ in 0..10 {
        c.sh(&id, "true").await?;
    }
    until(PATIENCE, "the end of ten", || async {
        Ok((c.sh(&id, count).await? == before).then_some(()))
    })
    .await
}
