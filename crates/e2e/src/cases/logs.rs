//! Log files.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{RemoveContainerRequest, ReopenContainerLogRequest};
use testing::wait::patient;

use crate::case;
use crate::case::Case;
use crate::context::{Context, PATIENCE, equal, refusal, until};
use crate::disk::{Disk, Lack};
use crate::logs;

/// The end and the output take different ways there.
const EARLY: &str = "1.6 may report the end before the log is complete";

pub(super) const CASES: &[Case] = &[
    case!("log.both_streams_in_the_format", streams),
    case!("log.last_line_without_end", partial),
    case!("log.long_lines_are_split", long),
    case!("log.many_lines_in_order", many).differs(EARLY),
    case!("log.a_million_lines_a_hundred_times", million).differs(EARLY).long(),
    case!("log.binary_bytes", binary),
    case!("log.is_complete_at_the_end", complete).differs(EARLY),
    case!("log.reopen", reopen),
    case!("log.reopen_of_an_ended_one_makes_no_file", reopen_ended),
    case!("log.none_when_no_path", no_path),
    case!("log.full_disk_holds_nobody_up", full_disk).ours(),
];

async fn streams(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script("echo one; echo two >&2; echo; echo ' three  '");
    let id = c.run(&pod, &config).await?;
    c.exited(&id).await?;
    let log = logs::read(&pod, &config)?;
    equal("standard output", log.of("stdout"), "one\n\n three  \n")?;
    equal("standard error", log.of("stderr"), "two\n")?;
    ensure!(log.0.iter().all(|line| !line.partial), "a partial line");
    ensure!(log.0.is_sorted_by_key(|line| line.time), "the times go back");
    Ok(())
}

async fn partial(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script("printf abcd");
    let id = c.run(&pod, &config).await?;
    c.exited(&id).await?;
    let log = logs::read(&pod, &config)?;
    let texts: Vec<&str> = log.0.iter().map(|line| line.text.as_str()).collect();
    equal("the text", texts, ["abcd"])
}

async fn long(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let size = 100_000;
    let config = c.script(&format!("head -c {size} /dev/zero | tr '\\0' x; echo; echo short"));
    let id = c.run(&pod, &config).await?;
    c.exited(&id).await?;
    let log = logs::read(&pod, &config)?;
    let longest = log.0.iter().map(|line| line.text.len()).max().unwrap_or(0);
    ensure!(longest <= 16 << 10, "a line of {longest}");
    ensure!(log.0.iter().filter(|line| line.partial).count() >= 6, "too few parts");
    equal("the text", log.text(), format!("{}\nshort\n", "x".repeat(size)))
}

async fn many(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script("seq 1 50000");
    let id = c.run(&pod, &config).await?;
    c.exited(&id).await?;
    let log = logs::read(&pod, &config)?;
    let wanted: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    ensure!(log.text() == wanted, "{} of 50000 lines, or out of order", log.0.len());
    Ok(())
}

/// Each time all lines are there once the end is told.
async fn million(c: &Context) -> Result<()> {
    const LINES: usize = 1_000_000;
    const TIMES: usize = 100;
    let pod = c.plain_pod().await?;
    let begun = Instant::now();
    for time in 1..=TIMES {
        let config = c.script(&format!("seq 1 {LINES}"));
        let id = c.run(&pod, &config).await?;
        let end = until(PATIENCE * 4, "the container's end", || async {
            let status = c.status(&id).await?;
            Ok((status.finished_at > 0).then_some(status.exit_code))
        });
        equal("the code", end.await?, 0)?;
        let path = logs::path(&pod, &config);
        let counted = tokio::task::spawn_blocking(move || {
            let counted = counted(&path);
            fs::remove_file(&path)?;
            counted
        });
        equal("the lines", counted.await??, LINES).with_context(|| format!("time {time}"))?;
        let request = RemoveContainerRequest { container_id: id };
        c.runtime.pods.remove_container(request).await?;
    }
    c.figure(&format!(
        "{TIMES} containers that end right after {LINES} lines: all lines are there, in order, \
         each time ({:.1} s in all)",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// How many lines there are, each of which holds its own number.
fn counted(path: &Path) -> Result<usize> {
    let mut count = 0;
    for line in BufReader::with_capacity(1 << 20, fs::File::open(path)?).split(b'\n') {
        let line = line?;
        count += 1;
        // `<time> stdout F <text>`, where the time has 30 bytes.
        let text = line.get(31..).and_then(|rest| rest.strip_prefix(b"stdout F "));
        ensure!(text == Some(count.to_string().as_bytes()), "line {count} is not there");
    }
    Ok(count)
}

async fn binary(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script("printf 'a\\000b\\r\\377\\n'; printf '\\n'");
    let id = c.run(&pod, &config).await?;
    c.exited(&id).await?;
    let bytes = fs::read(logs::path(&pod, &config))?;
    let found = bytes.windows(5).any(|window| window == b"a\x00b\r\xff");
    ensure!(found, "the bytes are not there: {bytes:?}");
    Ok(())
}

async fn complete(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for _ in 0..5 {
        let config = c.script("seq 1 3000; exit 3");
        let id = c.run(&pod, &config).await?;
        c.exited(&id).await?;
        // Once the end is reported all is there, as the kubelet reads it then.
        let log = logs::read(&pod, &config)?;
        equal("the last line", log.0.last().map(|line| line.text.as_str()), Some("3000"))?;
    }
    Ok(())
}

async fn reopen(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script("i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; sleep 0.01; done");
    let id = c.run(&pod, &config).await?;
    let path = logs::path(&pod, &config);
    until(PATIENCE, "the first lines", || async {
        Ok((fs::metadata(&path)?.len() > 100).then_some(()))
    })
    .await?;
    let old = path.with_extension("old");
    fs::rename(&path, &old)?;
    let request = ReopenContainerLogRequest { container_id: id.clone() };
    c.runtime.pods.reopen_container_log(request).await?;
    ensure!(path.exists(), "the new file is not there at once");
    let size = fs::metadata(&old)?.len();
    c.exited(&id).await?;
    equal("the old file's size", fs::metadata(&old)?.len(), size)?;
    let before = logs::Log::parse(&fs::read_to_string(&old)?)?;
    let after = logs::read(&pod, &config)?;
    let text = format!("{}{}", before.text(), after.text());
    let wanted: String = (1..=400).map(|number| format!("{number}\n")).collect();
    ensure!(text == wanted, "lines are lost or doubled: {} + {}", before.0.len(), after.0.len());
    ensure!(!before.0.is_empty() && !after.0.is_empty(), "one of the files is empty");
    Ok(())
}

async fn reopen_ended(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let config = c.script("echo x");
    let id = c.run(&pod, &config).await?;
    c.exited(&id).await?;
    let path = logs::path(&pod, &config);
    fs::rename(&path, path.with_extension("old"))?;
    let request = ReopenContainerLogRequest { container_id: id };
    let result = c.runtime.pods.reopen_container_log(request).await;
    refusal(result.map_err(Into::into))?;
    ensure!(!path.exists(), "a new file was made");
    Ok(())
}

/// What the disk does not take is dropped and counted; the container goes on, and one line says
/// how much is missing once there is room again.
async fn full_disk(c: &Context) -> Result<()> {
    let mut asked = c.pod()?;
    let place = c.directory()?;
    let disk = Disk::mount(&place, "size=2m")?;
    asked.log_directory = place.display().to_string();
    let pod = c.run_pod(asked).await?;
    let go = c.directory()?;
    let fifos = ["one", "two"].map(|name| go.join(name));
    testing::program::output(std::process::Command::new("mkfifo").args(&fifos))?;
    let script = "echo before; cat /go/one; seq 1 300000; cat /go/two; echo after";
    let mut config = c.script(script);
    config.mounts.push(cri_proto::v1::Mount {
        host_path: go.display().to_string(),
        container_path: "/go".to_owned(),
        ..cri_proto::v1::Mount::default()
    });
    let id = c.run(&pod, &config).await?;
    // Opening one waits for the container to read.
    let [one, two] = fifos.map(|fifo| async {
        let opened = tokio::task::spawn_blocking(move || fs::write(fifo, ""));
        Ok::<_, anyhow::Error>(tokio::time::timeout(patient(PATIENCE), opened).await???)
    });
    until(PATIENCE, "the first line", || async {
        Ok((logs::read(&pod, &config)?.0.len() == 1).then_some(()))
    })
    .await?;
    disk.fill(Lack::Space)?;
    one.await?;
    // It has written all once it reads again.
    let reads = "ps -o args | grep -c '^[c]at /go/two' || true";
    until(PATIENCE, "the container to go on", || async {
        Ok((c.sh(&id, reads).await? == "1").then_some(()))
    })
    .await?;
    disk.relieve()?;
    two.await?;
    equal("the code", c.exited(&id).await?.exit_code, 0)?;
    let log = logs::read(&pod, &config)?;
    let told: Vec<&str> =
        log.0.iter().map(|line| &*line.text).filter(|text| text.contains("dropped here")).collect();
    equal("the lines that tell of it", told.len(), 1)?;
    let dropped = told[0].split(' ').nth(1).and_then(|bytes| bytes.parse::<u64>().ok());
    ensure!(dropped.is_some_and(|bytes| bytes > 1 << 20), "it says {}", told[0]);
    equal("the last line", log.0.last().map(|line| &*line.text), Some("after"))?;
    c.remove_pod(&pod.id).await
}

async fn no_path(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("seq 1 1000");
    config.log_path = String::new();
    let id = c.run(&pod, &config).await?;
    let status = c.exited(&id).await.context("a full pipe, perhaps")?;
    equal("the code", status.exit_code, 0)?;
    Ok(())
}
