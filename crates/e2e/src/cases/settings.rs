//! Settings of the daemon that change what containers get: a daemon of its own for each.

use std::sync::Arc;

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{SeLinuxOption, SecurityProfile};

use crate::case;
use crate::case::Case;
use crate::catalog::BUSYBOX;
use crate::context::{Context, code, equal, security};

pub(super) const CASES: &[Case] = &[
    case!("setting.unset_seccomp_profile", unset_profile).alone().ours(),
    case!("setting.rlimits", rlimits).alone().ours(),
    case!("setting.ignore_inactive_selinux", selinux).alone().ours(),
];

/// Another daemon, with these tables in its configuration.
async fn with(c: &Context, tables: String) -> Result<Context> {
    let runtime = Arc::new(super::builtin::another(c, false, tables).await?);
    let other = Context::new(runtime, "settings");
    other.pull(BUSYBOX).await?;
    Ok(other)
}

const MODE: &str = "grep Seccomp: /proc/self/status | cut -f 2";

async fn unset_profile(c: &Context) -> Result<()> {
    let file = c.directory()?.join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&file, text)?;
    for (profile, blocked) in
        [("runtime/default".to_owned(), false), (format!("localhost/{}", file.display()), true)]
    {
        let tables = format!("\n[containers]\nunset_seccomp_profile = {profile:?}\n");
        let other = with(c, tables).await?;
        let pod = other.plain_pod().await?;
        equal("without a profile", other.output(&pod, &other.script(MODE)).await?, "2")?;
        let script = "mkdir /made 2> /dev/null && echo made || echo blocked";
        let said = other.output(&pod, &other.script(script)).await?;
        equal(&profile, said, if blocked { "blocked" } else { "made" })?;
        let mut config = other.script(MODE);
        security(&mut config)?.seccomp = Some(SecurityProfile {
            profile_type: ProfileType::Unconfined.into(),
            localhost_ref: String::new(),
        });
        equal("unconfined", other.output(&pod, &config).await?, "0")?;
        other.clean_up().await?;
    }
    Ok(())
}

async fn selinux(c: &Context) -> Result<()> {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Ok(()); // nothing is passed over there
    }
    let tables = "\n[containers]\nignore_inactive_selinux = true\n\n\
        [handlers.runc]\nprogram = \"/usr/sbin/runc\"\n";
    let tables = tables.to_owned();
    let other = with(c, tables).await?;
    let options = || {
        Some(SeLinuxOption {
            r#type: "spc_t".to_owned(),
            level: "s0".to_owned(),
            ..SeLinuxOption::default()
        })
    };
    let mut config = other.pod()?;
    if let Some(own) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        own.selinux_options = options();
    }
    for handler in ["", "runc"] {
        let mut config = config.clone();
        if let Some(metadata) = &mut config.metadata {
            metadata.uid.push_str(handler);
        }
        let pod = other.run_pod_by(handler, config).await?;
        let mut config = other.script("echo runs");
        security(&mut config)?.selinux_options = options();
        equal("the output", other.output(&pod, &config).await?, "runs")?;
    }
    // What is no label is refused all the same.
    let pod = other.plain_pod().await?;
    let mut config = other.waiting();
    security(&mut config)?.selinux_options =
        Some(SeLinuxOption { level: "s0\n".to_owned(), ..SeLinuxOption::default() });
    equal("no label", code(other.create(&pod, &config).await)?, Code::InvalidArgument)?;
    other.clean_up().await
}

async fn rlimits(c: &Context) -> Result<()> {
    let tables = "\n[containers.rlimits]\nnofile = \"100:200\"\ncore = \"7\"\n".to_owned();
    let other = with(c, tables).await?;
    let pod = other.plain_pod().await?;
    let text =
        other.output(&pod, &other.script("ulimit -n; ulimit -Hn; cat /proc/self/limits")).await?;
    ensure!(text.starts_with("100\n200\n"), "{text}");
    let core = text.lines().find(|line| line.starts_with("Max core")).unwrap_or_default();
    ensure!(core.split_whitespace().filter(|word| *word == "7").count() == 2, "{core}");
    other.clean_up().await
}
