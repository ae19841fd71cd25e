//! Ways out of a container that were open in other runtimes once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{Int64Value, NamespaceMode};

use super::restart::monitor_of;
use crate::case;
use crate::case::Case;
use crate::context::{Context, equal, security};

pub(super) const CASES: &[Case] = &[
    case!("escape.cgroups_cannot_be_written", cgroups).attack(),
    case!("escape.the_monitors_program_cannot_be_written", program).attack().ours(),
    case!("escape.nothing_is_inherited", inherited).attack(),
];

/// The kernel runs a release agent outside of the container (CVE-2022-0492), and a group that can
/// be written has no limits (CVE-2023-25809).
const CGROUPS: &str = "\
    mkdir /tmp/m\n\
    attack() {\n\
      for kind in 'cgroup -o memory' 'cgroup -o devices' 'cgroup -o none,name=own' cgroup2; do\n\
        mount -t $kind own /tmp/m 2> /dev/null && { echo $1 mounted $kind\n\
          (echo /tmp/agent > /tmp/m/release_agent) 2> /dev/null && echo $1 wrote the agent; }\n\
      done\n\
      mount -o remount,rw /sys/fs/cgroup 2> /dev/null && echo $1 remounted\n\
      for file in $(find /sys/fs/cgroup -type f -name release_agent -o -type f -name '*.procs' \
          -o -type f -name '*.max' -o -type f -name '*limit_in_bytes' -o -name devices.allow); do\n\
        (echo 1 > $file) 2> /dev/null && echo $1 wrote $file\n\
      done\n\
      mkdir /sys/fs/cgroup/own /sys/fs/cgroup/memory/own 2> /dev/null && echo $1 made a group\n\
    }\n";

async fn cgroups(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let own = c.script(&format!("{CGROUPS} attack root; echo done"));
    equal("by root", c.output(&pod, &own).await?, "done")?;
    // With all capabilities over namespaces of its own; a group that it mounts there may be seen,
    // not written.
    let inside = format!("{CGROUPS} attack inside").replace('\'', "'\\''");
    let script = format!("unshare -Urm sh -c '{inside}' 2> /dev/null | grep wrote; echo done");
    equal("in a user namespace", c.output(&pod, &c.script(&script)).await?, "done")
}

/// What tells whether a file is as it was.
fn stamp(path: &Path) -> Result<(u64, i64, i64, Vec<u8>)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), fs::read(path)?))
}

/// A command that is its runtime (`#!/proc/self/exe`), and processes that wait for the runtime's
/// to open it for writing (CVE-2019-5736).
async fn program(c: &Context) -> Result<()> {
    let daemon = c.runtime.with_daemon(|daemon| Ok(daemon.program().to_owned()))?;
    let file: PathBuf = daemon.with_file_name("corten-monitor");
    let before = stamp(&file)?;
    let pod = c.plain_pod().await?;
    let watch = "trap 'exit 0' TERM\n\
        while :; do for one in /proc/[0-9]*; do\n\
          case $(readlink $one/exe) in ''|/bin/*) ;; *) (: >> $one/exe) 2> /dev/null && echo opened $one; esac\n\
        done; done";
    let config = c.script(watch);
    let id = c.run(&pod, &config).await?;
    let trap = "printf '#!/proc/self/exe\\n' > /tmp/trap; chmod 755 /tmp/trap";
    c.sh(&id, trap).await?;
    for _ in 0..100 {
        // It is refused, or our program does not know what to do in there: it must end.
        if let Ok(answer) = c.exec_for(&id, &["/tmp/trap"], 20).await {
            ensure!(answer.exit_code != 0, "our program works in a container");
        }
    }
    equal("what was opened", crate::logs::read(&pod, &config)?.text(), "")?;

    // The same by a pod that sees the node's processes.
    let monitor = monitor_of(&pod.id)?;
    let mut asked = c.pod()?;
    crate::context::namespaces(&mut asked)?.pid = NamespaceMode::Node.into();
    let other = c.run_pod(asked).await?;
    let mut config =
        c.script(&format!("(: >> /proc/{monitor}/exe) 2> /dev/null && echo opened; echo done"));
    security(&mut config)?.namespace_options.get_or_insert_default().pid =
        NamespaceMode::Node.into();
    equal("by the node's processes", c.output(&other, &config).await?, "done")?;
    ensure!(stamp(&file)? == before, "{} is not what it was", file.display());
    Ok(())
}

/// No inheritable or ambient capability, and no descriptor but the three, for any process.
async fn inherited(c: &Context) -> Result<()> {
    let look =
        "grep -E 'Cap(Inh|Amb)' /proc/self/status | cut -f 2 | sort -u; ls /proc/self/fd | wc -l";
    let nothing = "0000000000000000\n4";
    let pod = c.plain_pod().await?;
    for user in [0, 1000] {
        let mut config = c.script(look);
        security(&mut config)?.run_as_user = Some(Int64Value { value: user });
        equal("the first process", c.output(&pod, &config).await?, nothing)?;
        let mut config = c.waiting();
        security(&mut config)?.run_as_user = Some(Int64Value { value: user });
        let id = c.run(&pod, &config).await?;
        equal("a command", c.sh(&id, look).await?, nothing)?;
    }
    let mut asked = c.pod()?;
    let linux = asked.linux.as_mut().context("no Linux part")?;
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = c.run_pod(asked).await?;
    let mut config = c.script(look);
    security(&mut config)?.privileged = true;
    equal("a privileged one", c.output(&pod, &config).await?, nothing)
}
