//! AppArmor's profiles, where the kernel has it, and where it has not.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{Capability, ContainerConfig, SecurityProfile};

use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, Pod, code, equal, refusal, security, strings};

const NEEDS: &[Need] = &[Need::AppArmor];

pub(super) const CASES: &[Case] = &[
    case!("apparmor.default_is_loaded_and_used", default).needs(NEEDS).ours(),
    case!("apparmor.default_keeps_the_kernel_from_writes", default_blocks).needs(NEEDS).ours(),
    case!("apparmor.default_lets_containers_be_stopped", stopped).needs(NEEDS).ours(),
    case!("apparmor.unconfined", unconfined).needs(NEEDS),
    case!("apparmor.privileged_has_none_unless_named", privileged).needs(NEEDS).ours(),
    case!("apparmor.profile_of_the_node", localhost).needs(NEEDS),
    case!("apparmor.deprecated_field_counts_where_the_new_one_is_not_set", deprecated)
        .needs(NEEDS)
        .ours(),
    case!("apparmor.profile_that_is_not_loaded_is_refused", unloaded).needs(NEEDS),
    case!("apparmor.sessions_have_it_too", sessions).needs(NEEDS),
    case!("apparmor.without_it_a_profile_is_refused", absent).needs(&[Need::NoAppArmor]).ours(),
];

const SHOW: &str = "cat /proc/self/attr/current";
const OURS: &str = "corten-default (enforce)";

fn profile(kind: ProfileType, name: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
}

async fn shown(c: &Context, pod: &Pod, apparmor: Option<SecurityProfile>) -> Result<String> {
    let mut config = c.script(SHOW);
    security(&mut config)?.apparmor = apparmor;
    c.output(pod, &config).await
}

/// Loads a profile under which nothing can be written below /tmp.
fn load(name: &str) -> Result<()> {
    let text = format!(
        "profile {name} flags=(attach_disconnected) {{\n\
         file, network, capability, unix, signal, ptrace, umount,\ndeny /tmp/** w,\n}}\n"
    );
    let mut parser = Command::new("/sbin/apparmor_parser")
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .spawn()
        .context("failed to run apparmor_parser")?;
    parser.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    ensure!(parser.wait()?.success(), "the profile was not loaded");
    Ok(())
}

const WRITE: &str = "touch /tmp/x 2> /dev/null && echo written || echo denied";

async fn default(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    equal("what nobody asked for", shown(c, &pod, None).await?, OURS)?;
    let asked = profile(ProfileType::RuntimeDefault, "");
    equal("what was asked for", shown(c, &pod, asked).await?, OURS)
}

async fn default_blocks(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "mount -t tmpfs t /mnt 2> /dev/null && echo mounted || echo refused; \
        echo 1 > /tmp/y && echo written; \
        cat /proc/self/status > /dev/null && echo read";
    for (kind, wanted) in [
        (ProfileType::RuntimeDefault, "refused\nwritten\nread"),
        (ProfileType::Unconfined, "mounted\nwritten\nread"),
    ] {
        let mut config = c.script(&format!("mkdir -p /mnt; {script}"));
        let security = security(&mut config)?;
        security.apparmor = profile(kind, "");
        security.capabilities =
            Some(Capability { add_capabilities: strings(&["SYS_ADMIN"]), ..Capability::default() });
        equal(&format!("{kind:?}"), c.output(&pod, &config).await?, wanted)?;
    }
    Ok(())
}

async fn stopped(c: &Context) -> Result<()> {
    let (_, id) = c.waiting_container().await?;
    c.stop(&id, 60).await?;
    equal("the code", c.status(&id).await?.exit_code, 0)
}

async fn unconfined(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let asked = profile(ProfileType::Unconfined, "");
    equal("the profile", shown(c, &pod, asked).await?, "unconfined")
}

async fn privileged(c: &Context) -> Result<()> {
    load("corten-e2e-privileged")?;
    let mut config = c.pod()?;
    if let Some(security) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        security.privileged = true;
    }
    let pod = c.run_pod(config).await?;
    for (asked, wanted) in [
        (None, "unconfined"),
        (profile(ProfileType::RuntimeDefault, ""), "unconfined"),
        (
            profile(ProfileType::Localhost, "corten-e2e-privileged"),
            "corten-e2e-privileged (enforce)",
        ),
    ] {
        let mut config = c.script(SHOW);
        let security = security(&mut config)?;
        security.privileged = true;
        security.apparmor = asked;
        equal("the profile", c.output(&pod, &config).await?, wanted)?;
    }
    Ok(())
}

async fn localhost(c: &Context) -> Result<()> {
    load("corten-e2e-localhost")?;
    let pod = c.plain_pod().await?;
    let mut config = c.script(&format!("{SHOW}; {WRITE}"));
    security(&mut config)?.apparmor = profile(ProfileType::Localhost, "corten-e2e-localhost");
    let text = c.output(&pod, &config).await?;
    equal("profile and write", text, "corten-e2e-localhost (enforce)\ndenied")
}

async fn deprecated(c: &Context) -> Result<()> {
    load("corten-e2e-old")?;
    let pod = c.plain_pod().await?;
    let with = |old: &str, new: Option<SecurityProfile>| -> Result<ContainerConfig> {
        let mut config = c.script(SHOW);
        let security = security(&mut config)?;
        security.apparmor = new;
        #[allow(deprecated)] // what older kubelets send
        {
            security.apparmor_profile = old.to_owned();
        }
        Ok(config)
    };
    let new = || profile(ProfileType::Unconfined, "");
    for (old, new, wanted) in [
        ("localhost/corten-e2e-old", None, "corten-e2e-old (enforce)"),
        ("runtime/default", None, OURS),
        ("unconfined", None, "unconfined"),
        ("localhost/corten-e2e-old", new(), "unconfined"),
    ] {
        equal(old, c.output(&pod, &with(old, new)?).await?, wanted)?;
    }
    let error = refusal(c.create(&pod, &with("localhost/nobody-loads-this", None)?).await)?;
    ensure!(error.to_string().contains("nobody-loads-this"), "{error}");
    Ok(())
}

async fn unloaded(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.apparmor = profile(ProfileType::Localhost, "nobody-loads-this");
    let error = refusal(c.create(&pod, &config).await)?;
    ensure!(error.to_string().contains("nobody-loads-this"), "{error}");
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)
}

async fn sessions(c: &Context) -> Result<()> {
    load("corten-e2e-sessions")?;
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.apparmor = profile(ProfileType::Localhost, "corten-e2e-sessions");
    let id = c.run(&pod, &config).await?;
    let text = c.sh(&id, &format!("{SHOW}; {WRITE}")).await?;
    equal("profile and write", text, "corten-e2e-sessions (enforce)\ndenied")
}

async fn absent(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.apparmor = profile(ProfileType::Localhost, "any");
    let error = refusal(c.create(&pod, &config).await)?;
    ensure!(error.to_string().contains("AppArmor is not active"), "{error}");
    equal("the code", code::<()>(Err(error))?, Code::InvalidArgument)?;
    // The kubelet refuses by itself where it is asked to.
    let mut config = c.script("echo runs");
    security(&mut config)?.apparmor = profile(ProfileType::RuntimeDefault, "");
    equal("the default", c.output(&pod, &config).await?, "runs")
}
