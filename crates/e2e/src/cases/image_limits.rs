//! Layers that are small where they come from and large where they are unpacked, pulls that are
//! looked at while they run, and images that are pulled, removed and used at the same time.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ImageStatusRequest, StatusRequest};
use serde_json::Value;
use testing::program::{self, Program};

use super::image_faults::{Served, archive};
use crate::case;
use crate::case::Case;
use crate::context::{Context, code, equal, image_spec, refusal, until};

pub(super) const CASES: &[Case] = &[
    case!("image_limit.bombs_stop_and_give_all_back", bombs).alone().ours(),
    case!("image_limit.progress_is_told_everywhere", progress).ours(),
    case!("image_limit.pulled_removed_and_used_at_once", race).alone().ours(),
];

/// By how much the daemon's memory may grow meanwhile.
const MEMORY: u64 = 256 << 20;

/// What may be left on the disk: directories that were made on the way.
const LEFT: u64 = 4 << 20;

/// The most that a number of a tar header says in octal: 8 GiB less one.
const LARGEST: &str = "77777777777";

async fn bombs(c: &Context) -> Result<()> {
    let root = c.runtime.with_daemon(|daemon| Ok(daemon.root()))?;
    let pid = c.runtime.with_daemon(|daemon| daemon.pid())?;
    for (what, layer) in [("bytes", many_bytes()?), ("entries", many_entries()?)] {
        let served = Served::compressed(layer)?;
        served.serve();
        let (used, memory) = (used(&root)?, peak(pid)?);
        let name = served.name();
        let attack = async { refusal(c.pull(&name).await) };
        // A neighbour is made meanwhile.
        let neighbour = Box::pin(async {
            let (pod, id) = c.waiting_container().await?;
            c.sh(&id, "true").await?;
            c.stop_pod(&pod.id).await?;
            c.remove_pod(&pod.id).await
        });
        let (error, neighbour) = tokio::join!(attack, neighbour);
        neighbour.with_context(|| format!("the neighbour of many {what}"))?;
        let error = error.with_context(|| format!("many {what}"))?;
        let text = error.to_string();
        equal(&text, code::<()>(Err(error))?, Code::ResourceExhausted)?;
        ensure!(text.contains("limit") && !text.contains('\n'), "{text}");
        ensure!(c.image(&name).await?.is_none(), "the image of many {what} is there");
        let grown = peak(pid)?.saturating_sub(memory);
        ensure!(grown < MEMORY, "many {what}: the daemon's memory grew by {grown} bytes");
        let limit = Duration::from_secs(60);
        until(limit, "the disk to be given back", || async {
            Ok((self::used(&root)?.saturating_sub(used) < LEFT).then_some(()))
        })
        .await?;
        c.figure(&format!("many {what}: {text}; {grown} bytes of memory"));
    }
    Ok(())
}

/// One file of 8 GiB of zeros, in 8 MiB: a member of gzip again and again.
fn many_bytes() -> Result<Vec<u8>> {
    let zeros = gzip(&vec![0; 64 << 20])?;
    let mut layer = gzip(&header(b'0', "zeros", LARGEST))?;
    (0..128).for_each(|_| layer.extend_from_slice(&zeros));
    Ok(layer)
}

/// More directories than any layer has entries, in some kilobytes.
fn many_entries() -> Result<Vec<u8>> {
    let some = header(b'5', "directory/", "00000000000").repeat(1 << 13);
    let some = gzip(&some)?;
    Ok(some.repeat(160))
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = std::process::Command::new("gzip");
    gzip.args(["-9", "-c"]).stdin(std::process::Stdio::piped());
    let mut child = gzip.stdout(std::process::Stdio::piped()).spawn().context("no gzip")?;
    let mut input = child.stdin.take().context("gzip has no input")?;
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer died"))??;
    ensure!(output.status.success(), "gzip: {}", output.status);
    Ok(output.stdout)
}

fn header(kind: u8, name: &str, size: &str) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, size.as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// The disk space below a directory, as du(1) has it.
fn used(dir: &Path) -> Result<u64> {
    let mut du = std::process::Command::new("du");
    let text = program::output(du.args(["-s", "--block-size=1"]).arg(dir))?;
    let bytes = text.split_whitespace().next().context("du says nothing")?;
    Ok(bytes.parse()?)
}

/// The most memory that a process has had.
fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>()?;
    Ok(kib * 1024)
}

/// In the verbose answers, in what is reported as used, and in the log after a while.
async fn progress(c: &Context) -> Result<()> {
    let served = Served::new(archive(c)?)?;
    served.serve();
    let held = served.hold_layer();
    let name = served.name();
    let logged = fs::metadata(c.runtime.daemon_log()?)?.len();
    let pull = {
        let (images, image) = (c.runtime.images.clone(), Some(image_spec(&name)));
        let request = cri_proto::v1::PullImageRequest { image, ..Default::default() };
        tokio::spawn(async move { images.pull_image(request).await })
    };
    let limit = Duration::from_secs(30);
    let told = until(limit, "the progress of the pull", || async {
        let request = ImageStatusRequest { image: Some(image_spec(&name)), verbose: true };
        let answer = c.runtime.images.image_status(request).await?;
        ensure!(answer.image.is_none(), "the image is there");
        let told = answer.info.get("progress").map(|text| serde_json::from_str::<Value>(text));
        Ok(told.transpose()?.filter(|told| told[0]["layersTotal"] == 1))
    })
    .await?;
    let wanted = ["reference", "layersDone", "bytesTotal", "bytesDone"];
    let got = wanted.map(|key| told[0][key].clone());
    let size = serde_json::json!(archive_size(&told)?);
    equal("the progress", got, [name.clone().into(), 0.into(), size, 0.into()])?;
    let answer = c.runtime.pods.status(StatusRequest { verbose: true }).await?;
    let figures: Value =
        serde_json::from_str(answer.info.get("images").context("no figures of images")?)?;
    let is_listed = figures["pulls"].as_array().context("no pulls")?.iter();
    ensure!(is_listed.into_iter().any(|pull| pull["reference"] == name.as_str()), "{figures}");
    ensure!(figures["pullsStarted"].as_u64() > Some(0), "{figures}");
    let mut bars = Bars::show(c, &name)?;
    until(limit, "the bar of a pull", || async {
        Ok(bars.text()?.contains("layers 0/1").then_some(()))
    })
    .await?;
    until(limit, "a line in the log", || async {
        let log = fs::read(c.runtime.daemon_log()?)?;
        let new = log.get(usize::try_from(logged)?..).unwrap_or_default();
        let text = String::from_utf8_lossy(new).into_owned();
        let is_it = |line: &str| line.contains("pulling") && line.contains(&name);
        Ok(text.lines().any(is_it).then_some(()))
    })
    .await?;
    drop(held);
    pull.await??;
    let said = bars.end()?;
    for word in ["Pulling", "/s", "left", "Image is up to date for sha256:"] {
        ensure!(said.contains(word), "no {word:?} in {said:?}");
    }
    let request = ImageStatusRequest { image: Some(image_spec(&name)), verbose: true };
    let answer = c.runtime.images.image_status(request).await?;
    ensure!(!answer.info.contains_key("progress"), "it is still being pulled");
    c.remove_image(&name).await
}

/// `corten pull` on a terminal.
struct Bars {
    program: Program,
    shown: PathBuf,
}

impl Bars {
    fn show(c: &Context, image: &str) -> Result<Self> {
        let (program, socket) = c.runtime.with_daemon(|daemon| {
            Ok((daemon.program().display().to_string(), daemon.image_socket()))
        })?;
        let endpoint = format!("unix://{}", socket.display());
        let pull = format!(
            "stty cols 150; {program} --runtime-endpoint {endpoint} --image-endpoint {endpoint} pull {image}"
        );
        let shown = c.directory()?.join("shown");
        // script(1) gives it a terminal of its own.
        let mut script = std::process::Command::new("script");
        script.args(["-q", "-e", "-f", "-c", &pull, "/dev/null"]).env("TERM", "xterm");
        Ok(Self { program: Program::start(&mut script, &shown)?, shown })
    }

    fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.shown)?).into_owned())
    }

    fn end(&mut self) -> Result<String> {
        let ended = self.program.wait(Duration::from_secs(30))?;
        let text = self.text()?;
        ensure!(ended.success(), "{ended}: {text}");
        Ok(text)
    }
}

fn archive_size(told: &Value) -> Result<u64> {
    let size = told[0]["bytesTotal"].as_u64().context("no size")?;
    ensure!(size > 512, "{size} bytes only");
    Ok(size)
}

/// How often each does its part.
const ROUNDS: usize = 25;

/// An image that was pulled can be used, or is said not to be there: it is never half there.
async fn race(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/layered:1";
    let pod = c.plain_pod().await?;
    let users = (0..3).map(|_| async {
        let mut used = 0;
        for _ in 0..ROUNDS {
            c.pull(name).await?;
            let mut config = c.script("cat /data/changed /data/owned");
            config.image = Some(image_spec(name));
            match c.create(&pod, &config).await {
                Ok(id) => {
                    c.start(&id).await?;
                    let status = c.exited(&id).await?;
                    let log = crate::logs::read(&pod, &config)?;
                    equal("the code", status.exit_code, 0)?;
                    // At a second try there is the first one's before it.
                    ensure!(log.of("stdout").ends_with("uppertop"), "its files: {}", log.text());
                    c.remove(&id).await?;
                    used += 1;
                }
                Err(error) => equal(&error.to_string(), code::<()>(Err(error))?, Code::NotFound)?,
            }
        }
        anyhow::Ok(used)
    });
    let users = futures_util::future::try_join_all(users);
    let removals = async {
        for _ in 0..ROUNDS * 3 {
            c.remove_image(name).await?;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        anyhow::Ok(())
    };
    let (used, ()) = Box::pin(async { tokio::try_join!(users, removals) }).await?;
    let used: usize = used.iter().sum();
    c.figure(&format!("{used} of {} pulls were used before they were removed", 3 * ROUNDS));
    ensure!(used > 0, "no image was there when it was to be used");
    // Nobody removes it now: what was pulled is there.
    c.pull(name).await?;
    c.present(name).await?;
    let mut config = c.waiting();
    config.image = Some(image_spec(name));
    let id = c.run(&pod, &config).await?;
    equal("a file", c.sh(&id, "cat /data/changed").await?, "upper")?;
    c.clean_up().await?;
    c.remove_image(name).await
}
