//! Booting the guest.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::Outcome;
use super::payload::Payload;
use super::root::Root;
use crate::command::watch;
use crate::test::counts;

/// The kernel's arguments. The second serial port is the tests' alone.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 root=/dev/vda rw quiet panic=-1 \
    systemd.unit=corten-guest.target systemd.show_status=false";

const MEMORY: &str = "3072M";
const PROCESSORS: &str = "2";

/// How much of the console is shown when something failed.
const SHOWN_LINES: usize = 60;

/// The last line of the tests' output.
const END: &str = "guest: exit ";

/// Boots, shows what the tests say, and counts; never takes longer than `limit`.
///
/// # Errors
/// If QEMU cannot be run.
pub fn run(root: &Root, payload: &Payload, limit: Duration) -> Result<Outcome> {
    let console = payload.place().join("console.log");
    let mut outcome = Outcome::default();
    let mut end = None;
    let ended = watch(command(root, payload, &console, limit), |line| {
        if let Some((passed, failed)) = counts(line) {
            outcome.passed += passed;
            outcome.failed += failed;
        }
        end = line.trim().strip_prefix(END).map(str::to_owned).or_else(|| end.take());
    })?;
    outcome.ended_well = end.as_deref() == Some("0");
    outcome.broken = match end.as_deref() {
        Some("0") => None,
        Some(_) if outcome.failed > 0 => None,
        Some(_) => Some("a program failed without a failed test".to_owned()),
        None if ended => Some("the guest ended before its tests".to_owned()),
        None => Some(format!("the guest was ended, at the latest after {} s", limit.as_secs())),
    };
    if !outcome.ended_well {
        show(&console);
    }
    Ok(outcome)
}

fn command(root: &Root, payload: &Payload, console: &Path, limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &limit.as_secs().to_string(), "qemu-system-x86_64"]);
    // Hardware virtualisation hangs on some machines that offer it.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
    command.args(["-smp", PROCESSORS, "-m", MEMORY]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.arg("-kernel").arg(root.kernel()).arg("-initrd").arg(root.initrd());
    command.args(["-append", KERNEL_ARGUMENTS]);
    command.arg("-drive").arg(drive(&root.disk(), "snapshot=on"));
    command.arg("-drive").arg(drive(payload.disk(), "read-only=on"));
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio"]);
    // What the guest writes to its root goes into a file without a name there.
    command.env("TMPDIR", payload.place()).stdin(Stdio::null());
    command
}

fn drive(image: &Path, manner: &str) -> String {
    format!("file={},if=virtio,format=raw,cache=unsafe,{manner}", image.display())
}

fn show(console: &Path) {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    println!("-- the guest's console, {} lines, at last:", lines.len());
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        println!("   {}", line.trim_end());
    }
}
