//! Privilege, seccomp, no_new_privs.

use anyhow::{Result, ensure};
use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{Int64Value, SecurityProfile};

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, equal, refusal, security};

pub(super) const CASES: &[Case] = &[
    case!("security.privileged", privileged),
    case!("security.privileged_needs_a_privileged_pod", privileged_in_plain_pod),
    case!("security.seccomp_mode_of_each_profile", seccomp_modes),
    case!("security.seccomp_default_blocks", seccomp_blocks).attack(),
    case!("security.seccomp_is_not_for_the_privileged", seccomp_privileged),
    case!("security.seccomp_profile_of_a_file", seccomp_file),
    case!("security.seccomp_missing_file_is_refused", seccomp_missing),
    case!("security.no_new_privileges", no_new_privileges),
];

fn profile(kind: ProfileType, file: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: file.to_owned() })
}

async fn privileged_pod(c: &Context) -> Result<Pod> {
    let mut config = c.pod()?;
    if let Some(security) = config.linux.as_mut().and_then(|l| l.security_context.as_mut()) {
        security.privileged = true;
    }
    c.run_pod(config).await
}

async fn privileged(c: &Context) -> Result<()> {
    let pod = privileged_pod(c).await?;
    let script = "grep CapEff /proc/self/status | cut -f 2; test -e /dev/kmsg && echo kmsg; \
        grep -q ' /sys sysfs rw' /proc/mounts && echo sys; grep -q Seccomp:.0 /proc/self/status && echo free; mount -t tmpfs t /mnt 2>&1 || mkdir /m && mount -t tmpfs t /m && echo mounted";
    let mut config = c.script(script);
    security(&mut config)?.privileged = true;
    let text = c.output(&pod, &config).await?;
    let own = std::fs::read_to_string("/proc/self/status")?;
    let bound = own.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    equal("the capabilities", lines.first().copied(), Some(bound))?;
    ensure!(
        !std::path::Path::new("/dev/kmsg").exists() || lines.contains(&"kmsg"),
        "no devices: {text}"
    );
    ensure!(lines.contains(&"mounted"), "no mount: {text}");
    ensure!(lines.contains(&"sys"), "/sys is not writable: {text}");
    ensure!(lines.contains(&"free"), "there is a filter: {text}");
    Ok(())
}

async fn privileged_in_plain_pod(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.privileged = true;
    refusal(c.create(&pod, &config).await)?;
    Ok(())
}

async fn seccomp_modes(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for (profile, mode) in [
        (None, "0"),
        (profile(ProfileType::Unconfined, ""), "0"),
        (profile(ProfileType::RuntimeDefault, ""), "2"),
    ] {
        let mut config = c.script("grep Seccomp: /proc/self/status | cut -f 2");
        let what = format!("{profile:?}");
        security(&mut config)?.seccomp = profile;
        equal(&what, c.output(&pod, &config).await?, mode)?;
    }
    Ok(())
}

async fn seccomp_blocks(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script =
        "unshare -U true 2>/dev/null && echo made || echo blocked; ls / > /dev/null && echo works";
    let mut config = c.script(script);
    security(&mut config)?.seccomp = profile(ProfileType::RuntimeDefault, "");
    equal("the default", c.output(&pod, &config).await?, "blocked\nworks")?;
    equal("without", c.output(&pod, &c.script(script)).await?, "made\nworks")
}

async fn seccomp_privileged(c: &Context) -> Result<()> {
    let pod = privileged_pod(c).await?;
    let mut config = c.script("grep Seccomp: /proc/self/status | cut -f 2");
    let security = security(&mut config)?;
    security.privileged = true;
    security.seccomp = profile(ProfileType::RuntimeDefault, "");
    equal("the mode", c.output(&pod, &config).await?, "0")
}

async fn seccomp_file(c: &Context) -> Result<()> {
    let file = c.directory()?.join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["chmod","fchmodat","fchmodat2","fchmod"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&file, text)?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("touch /tmp/a; chmod 600 /tmp/a 2>&1; echo $?");
    security(&mut config)?.seccomp = profile(ProfileType::Localhost, &file.display().to_string());
    let text = c.output(&pod, &config).await?;
    equal("the answer", text, "chmod: /tmp/a: Operation not permitted\n1")
}

async fn seccomp_missing(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.seccomp = profile(ProfileType::Localhost, "/no/such/profile.json");
    let error = refusal(c.run(&pod, &config).await)?.to_string();
    ensure!(error.contains("/no/such/profile.json"), "it does not say which: {error}");
    Ok(())
}

async fn no_new_privileges(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for (asked, wanted) in [(true, "1"), (false, "0")] {
        let mut config = c.script("grep NoNewPrivs /proc/self/status | cut -f 2");
        let security = security(&mut config)?;
        security.no_new_privs = asked;
        security.run_as_user = Some(Int64Value { value: 1000 });
        equal("the bit", c.output(&pod, &config).await?, wanted)?;
    }
    Ok(())
}
