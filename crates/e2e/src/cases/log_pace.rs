//! A container that writes 50 MiB/s to a log on a tmpfs, while the daemon hangs, is dead and is
//! replaced: all is in the log, and no write waited for the daemon.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use streaming::client::Transport;
use streaming::{Outcome, Streams};
use testing::program;
use testing::wait::patient;

use super::python;
use super::streaming::{begin, exec_address};
use crate::case;
use crate::case::Case;
use crate::context::{Context, PATIENCE, equal, until};
use crate::disk::Disk;
use crate::logs;

pub(super) const CASES: &[Case] = &[
    case!("log.keeps_its_pace_without_the_daemon", bounded).alone().ours(),
    case!("log.keeps_its_pace_for_long", long).ours().long(),
];

/// Writes numbered lines of 128 bytes at 50 MiB/s and never waits in a write: what would have
/// waited is counted, and how long. The pipe is as large as anyone's may be, so that what is
/// counted is not each turn that the scheduler gives to another process.
const WRITER: &str = r#"
import fcntl, os, select, sys, time
seconds, rate, chunk, lines = float(sys.argv[1]), 50 << 20, 512, 32768
fcntl.fcntl(1, 1031, 1 << 20)
os.set_blocking(1, False)
line = b"%06d " + b"x" * 120 + b"\n"
chunks = [b"".join(line % n for n in range(at, at + chunk)) for at in range(0, lines, chunk)]
full, sent, begun = [], 0, time.time()
while (now := time.time()) - begun < seconds:
    time.sleep(max(0, sent * chunk * 128 / rate - (now - begun)))
    rest = memoryview(chunks[sent % len(chunks)])
    while rest:
        try:
            rest = rest[os.write(1, rest):]
        except BlockingIOError:
            before = time.time()
            select.select([], [1], [])
            full.append((before, time.time()))
    sent += 1
print("sent", sent * chunk, time.time() - begun, file=sys.stderr)
for before, after in full:
    print("full", before, after, file=sys.stderr)
"#;

/// Lines of the writer until its numbers begin again.
const NUMBERS: usize = 32768;

/// How long a write that is counted may wait: for a processor, which a busy machine has not.
/// Each time that the daemon cannot do anything is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

async fn bounded(c: &Context) -> Result<()> {
    pace(c, patient(Duration::from_secs(8)), Duration::from_millis(2500)).await.map(drop)
}

async fn long(c: &Context) -> Result<()> {
    let (seconds, away) = (Duration::from_secs(40), Duration::from_secs(8));
    let seen = pace(c, seconds, away).await?;
    let rate = seen.lines as f64 * 128.0 / f64::from(1 << 20) / seen.seconds;
    c.figure(&format!(
        "{} lines of 128 bytes in {:.1} s, {rate:.1} MiB/s, all there; {} writes found the pipe \
         full, for {:.0} ms at most; while the daemon was stopped, dead or replaced ({:.1} s) {}, \
         for {:.0} ms at most",
        seen.lines,
        seen.seconds,
        seen.full.len(),
        longest(&seen.full) * 1e3,
        seen.away.iter().map(|(from, to)| to - from).sum::<f64>(),
        seen.full_without().len(),
        longest(&seen.full_without()) * 1e3,
    ));
    ensure!(rate > 45.0, "only {rate:.1} MiB/s");
    Ok(())
}

/// Times as seconds since 1970, from and to.
type Span = (f64, f64);

/// What a run showed.
#[derive(Default)]
struct Seen {
    lines: usize,
    seconds: f64,
    /// When the writer found the pipe full.
    full: Vec<Span>,
    /// When there was no daemon that could do anything.
    away: Vec<Span>,
}

impl Seen {
    /// When it was full without a daemon.
    fn full_without(&self) -> Vec<Span> {
        let overlaps = |one: &Span| self.away.iter().any(|away| one.0 < away.1 && away.0 < one.1);
        self.full.iter().copied().filter(overlaps).collect()
    }
}

fn longest(spans: &[Span]) -> f64 {
    spans.iter().map(|(from, to)| to - from).fold(0.0, f64::max)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

async fn pace(c: &Context, seconds: Duration, away: Duration) -> Result<Seen> {
    ensure!(away > LONGEST_WAIT, "nothing could be told apart");
    let mut asked = c.pod()?;
    let place = c.directory()?;
    let _memory = Disk::mount(&place, "size=50%")?;
    asked.log_directory = place.display().to_string();
    let pod = c.run_pod(asked).await?;
    let config = python::script(c, WRITER, &[&seconds.as_secs().to_string()]);
    let id = c.run(&pod, &config).await?;
    let path = logs::path(&pod, &config);
    grows(&path).await?;

    let mut seen = Seen::default();
    seen.away.push(stopped(c, &path, away).await?);
    seen.away.push(dead(c, &path, away).await?);
    seen.away.push(replaced(c, &id).await?);
    let ended = until(seconds + PATIENCE, "the writer's end", || async {
        let status = c.status(&id).await?;
        Ok((status.finished_at > 0).then_some(status.exit_code))
    });
    equal("the code", ended.await?, 0)?;
    let read = tokio::task::spawn_blocking(move || read(&path, seen));
    let seen = read.await??;
    // What the tmpfs holds goes before what else is looked at.
    c.remove_pod(&pod.id).await?;
    let worst = longest(&seen.full);
    let limit = patient(LONGEST_WAIT).as_secs_f64();
    ensure!(worst < limit, "a write would have waited for {worst:.3} s");
    Ok(seen)
}

/// Waits until the log is longer than it was.
async fn grows(path: &Path) -> Result<()> {
    let size = || fs::metadata(path).map_or(0, |metadata| metadata.len());
    let before = size();
    until(PATIENCE, "the log to grow", || async { Ok((size() > before + 4096).then_some(())) })
        .await
}

/// The daemon is stopped for a while; the log grows to the end of it.
async fn stopped(c: &Context, path: &Path, away: Duration) -> Result<Span> {
    let pid = c.runtime.with_daemon(|daemon| daemon.pid())?;
    let signal = |name: &'static str| {
        program::output(Command::new("kill").args([name, &pid.to_string()])).map(drop)
    };
    signal("-STOP")?;
    let from = now();
    tokio::time::sleep(away).await;
    let grown = grows(path).await;
    let to = now();
    signal("-CONT")?;
    grown?;
    c.runtime.settle().await?;
    Ok((from, to))
}

/// There is no daemon for a while.
async fn dead(c: &Context, path: &Path, away: Duration) -> Result<Span> {
    c.runtime.kill()?;
    let from = now();
    tokio::time::sleep(away).await;
    grows(path).await?;
    c.runtime.launch().await?;
    Ok((from, now()))
}

/// Another daemon takes the place of this one, which is asked to leave and stays for a session.
async fn replaced(c: &Context, id: &str) -> Result<Span> {
    let streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
    let address = exec_address(c, id, &["cat"], streams).await?;
    let mut session = begin(&address, streams, Transport::Spdy).await?;
    let from = now();
    let mut old = c.runtime.with_daemon(testing::Daemon::succeed)?;
    c.runtime.settle().await?;
    session.stdin.take().context("no input")?.finish().await;
    equal("the session's end", session.ended().await, Outcome::Exited(0))?;
    let status = tokio::task::spawn_blocking(move || old.wait(PATIENCE)).await??;
    ensure!(status.success(), "the old daemon failed");
    Ok((from, now()))
}

/// Reads the log: every line of the writer's is there, once and in order, and what it counted.
fn read(path: &Path, mut seen: Seen) -> Result<Seen> {
    let mut told = None;
    for line in BufReader::with_capacity(1 << 20, File::open(path)?).split(b'\n') {
        let line = line?;
        if line.get(31..37) == Some(b"stderr") {
            let text = String::from_utf8_lossy(line.get(40..).unwrap_or_default()).into_owned();
            let mut words = text.split_whitespace();
            let what = words.next().context("an empty line")?.to_owned();
            let mut number = || words.next().context("no number")?.parse::<f64>().context("none");
            let both = (number()?, number()?);
            match &*what {
                "sent" => told = Some(both),
                "full" => seen.full.push(both),
                _ => ensure!(false, "the writer says {text}"),
            }
            continue;
        }
        let wanted = format!("stdout F {:06} xx", seen.lines % NUMBERS);
        ensure!(line.get(31..49) == Some(wanted.as_bytes()), "line {} is not there", seen.lines);
        equal("its length", line.len(), 40 + 127)?;
        seen.lines += 1;
    }
    let (lines, seconds) = told.context("the writer does not say what it wrote")?;
    equal("the lines", seen.lines as f64, lines)?;
    seen.seconds = seconds;
    Ok(seen)
}
