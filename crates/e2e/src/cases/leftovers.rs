//! What a daemon finds in its directories that it has not left there, or has left there a
//! thousand times.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testing::audit::Snapshot;
use testing::wait::patient;

use super::builtin;
use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{Context, equal};

pub(super) const CASES: &[Case] = &[
    case!("leftover.of_a_thousand_crashes_is_swept", crashes).alone().ours(),
    case!("leftover.foreign_files_and_open_directories", foreign).alone().ours(),
];

const CRASHES: usize = 1000;

/// How long a start may take with all of that.
const START: Duration = Duration::from_secs(10);

/// Where a crash can leave something, and what its name ends with.
const PLACES: [(&str, &str); 8] = [
    ("snapshots/new", ""),
    ("snapshots/trash", ""),
    ("snapshots/layers", ""),
    ("snapshots/seals", ".new"),
    ("images/records", ".new"),
    ("images/documents", ".new"),
    ("sandboxes", ".new"),
    ("containers", ".new"),
];

async fn crashes(c: &Context) -> Result<()> {
    let runtime = Arc::new(builtin::another(c, false, String::new()).await?);
    let small = Context::new(Arc::clone(&runtime), "leftover");
    small.pull(BUSYBOX).await?;
    small.plain_pod().await?;
    small.clean_up().await?;
    let (_, running) = small.waiting_container().await?;
    // A process that changes its program meanwhile would be another one.
    small.sh(&running, "until grep -qsx tail /proc/[0-9]*/comm; do sleep 0.01; done").await?;
    let before = Snapshot::take(&runtime.audit_scope())?;
    let root = runtime.with_daemon(|daemon| Ok(daemon.root()))?;
    runtime.kill()?;
    for (place, ending) in PLACES {
        ensure!(root.join(place).is_dir(), "there is no {place}");
        for number in 0..CRASHES {
            leave(&root.join(place).join(format!("{number:064x}{ending}")), ending.is_empty())?;
        }
    }
    let begun = Instant::now();
    runtime.launch().await?;
    let took = begun.elapsed();
    c.figure(&format!("started in {took:.1?} with {} leftovers", CRASHES * PLACES.len()));
    ensure!(took < patient(START), "it took {took:?} to start");
    equal("what runs", small.sh(&running, "echo it runs").await?, "it runs")?;
    small.present(BUSYBOX).await?;
    crate::context::until(patient(START), "what was left to be swept", || async {
        let left = PLACES.iter().map(|(place, _)| left_in(&root.join(place)));
        Ok((left.sum::<Result<usize>>()? == 0).then_some(()))
    })
    .await?;
    before.with_scope(runtime.audit_scope()).audit()?;
    small.clean_up().await
}

/// A file, or a directory with a file in it.
fn leave(path: &Path, directory: bool) -> Result<()> {
    if directory {
        fs::create_dir(path)?;
        fs::write(path.join("file"), "half of it")?;
    } else {
        fs::write(path, "half of it")?;
    }
    Ok(())
}

/// How many of those that were left are still there.
fn left_in(place: &Path) -> Result<usize> {
    let names = fs::read_dir(place)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_string_lossy().starts_with(&"0".repeat(48))).count())
}

/// What nobody else may look into.
const CLOSED: [&str; 4] = ["images", "snapshots", "sandboxes", "containers"];

async fn foreign(c: &Context) -> Result<()> {
    let runtime = Arc::new(builtin::another(c, false, String::new()).await?);
    let small = Context::new(Arc::clone(&runtime), "leftover");
    small.pull(BUSYBOX).await?;
    let (_, running) = small.waiting_container().await?;
    let (root, state) = runtime.with_daemon(|daemon| Ok((daemon.root(), daemon.state())))?;
    runtime.kill()?;
    let mut junk = vec![root.join("junk"), state.join("junk"), state.join("pods/junk")];
    for (place, _) in PLACES {
        junk.push(root.join(place).join("a name that is none of ours"));
    }
    for path in &junk {
        fs::write(path, "junk").with_context(|| format!("no {}", path.display()))?;
    }
    for name in CLOSED {
        let dir = root.join(name);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        std::os::unix::fs::chown(&dir, Some(1000), Some(1000))?;
    }
    runtime.launch().await?;
    for name in CLOSED {
        let meta = fs::metadata(root.join(name))?;
        equal(name, format!("{:o} of {}", meta.mode() & 0o7777, meta.uid()), "700 of 0")?;
        let log = fs::read_to_string(runtime.daemon_log()?)?;
        let of_it = root.join(name).display().to_string();
        let is_it = |line: &str| line.contains(&of_it) && line.contains("open to others");
        ensure!(log.lines().any(is_it), "the log does not tell of {of_it}");
    }
    equal("what runs", small.sh(&running, "echo it runs").await?, "it runs")?;
    small.present(BUSYBOX).await?;
    equal("the pods", runtime.pods.pod_sandboxes(None).await?.len(), 1)?;
    let (_, another) = small.waiting_container().await?;
    small.sh(&another, "true").await?;
    small.clean_up().await?;
    equal("the pods", runtime.pods.pod_sandboxes(None).await?.len(), 0)
}
