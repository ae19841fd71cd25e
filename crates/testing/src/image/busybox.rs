//! Busybox from Debian's busybox-static.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::{Image, LayerBuilder};
use crate::program;

const PROGRAM: &str = "/bin/busybox";

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    default-user:x:1000:1000::/home/default-user:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";

const GROUP: &[u8] = b"root:x:0:\ndaemon:x:1:\nwww-data:x:33:\ndefault-user:x:1000:\n\
    group-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n";

/// The image: busybox and a link for each of its commands, a few users and groups.
///
/// # Errors
/// If the package is not installed.
pub fn busybox() -> Result<Image> {
    let mut layer = LayerBuilder::new();
    for directory in ["dev", "etc", "proc", "root", "sys", "usr/bin", "usr/sbin", "var/www"] {
        layer.directory(directory, 0o755)?;
    }
    layer.directory("tmp", 0o1777)?.directory("home/default-user", 0o755)?;
    layer.copy(Path::new(PROGRAM), "bin/busybox", 0o755)?;
    for command in program::output(Command::new(PROGRAM).arg("--list"))?.lines() {
        if command != "busybox" {
            // The usual image has hard links too.
            layer.hardlink(&format!("bin/{command}"), "bin/busybox")?;
        }
    }
    layer.file("etc/passwd", 0o644, PASSWD)?.file("etc/group", 0o644, GROUP)?;
    layer.file("etc/shadow", 0o640, b"root:*:::::::\n")?;
    let config = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["sh"],
    });
    Ok(Image::new(vec![layer.finish()?], config))
}
