//! Users, groups, capabilities, paths.

use anyhow::{Result, ensure};
use cri_proto::v1::{Capability, Int64Value};

use crate::case;
use crate::case::Case;
use crate::context::{Context, equal, refusal, security, strings};

pub(super) const CASES: &[Case] = &[
    case!("security.run_as_user", user),
    case!("security.run_as_username", username),
    case!("security.run_as_group", group),
    case!("security.group_alone_is_refused", group_alone),
    case!("security.unknown_user_is_refused", unknown_user),
    case!("security.supplemental_groups", groups),
    case!("security.default_capabilities", default_capabilities),
    case!("security.added_capability", added),
    case!("security.dropped_capability", dropped),
    case!("security.all_dropped", all_dropped),
    case!("security.all_added", all_added),
    case!("security.unprivileged_user_has_none", unprivileged),
    case!("security.read_only_root", read_only_root),
    case!("security.masked_paths", masked),
    case!("security.read_only_paths", read_only_paths),
    case!("security.device_nodes", devices).attack(),
    case!("security.host_device", host_device),
];

/// What container runtimes have by default since Docker.
const DEFAULT: u64 = 0xa804_25fb;
const NET_RAW: u64 = 1 << 13;
const NET_ADMIN: u64 = 1 << 12;

async fn user(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("id -u; id -g");
    security(&mut config)?.run_as_user = Some(Int64Value { value: 1001 });
    equal("the user", c.output(&pod, &config).await?, "1001\n0")
}

async fn username(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("id -un; id -g; echo $HOME");
    security(&mut config)?.run_as_username = "default-user".to_owned();
    equal("the user", c.output(&pod, &config).await?, "default-user\n1000\n/home/default-user")
}

async fn group(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("id -u; id -g");
    let security = security(&mut config)?;
    security.run_as_user = Some(Int64Value { value: 1001 });
    security.run_as_group = Some(Int64Value { value: 1002 });
    equal("user and group", c.output(&pod, &config).await?, "1001\n1002")
}

async fn group_alone(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.run_as_group = Some(Int64Value { value: 1002 });
    refusal(c.create(&pod, &config).await)?;
    Ok(())
}

async fn unknown_user(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    security(&mut config)?.run_as_username = "no-such-user".to_owned();
    let error = refusal(c.run(&pod, &config).await)?.to_string();
    ensure!(error.contains("no-such-user") || error.contains("no users found"), "{error}");
    Ok(())
}

async fn groups(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("id -G");
    let security = security(&mut config)?;
    security.run_as_username = "default-user".to_owned();
    security.supplemental_groups = vec![1234, 5678];
    let text = c.output(&pod, &config).await?;
    let mut groups: Vec<u32> = text.split(' ').flat_map(str::parse).collect();
    groups.sort_unstable();
    // Its own, those asked for, and that of the image's /etc/group.
    equal("the groups", groups, [1000, 1234, 5678, 50_000])
}

/// A capability set of the container's first process.
async fn capabilities(c: &Context, set: &str, capability: Capability) -> Result<u64> {
    let pod = c.plain_pod().await?;
    let mut config = c.script(&format!("grep {set} /proc/self/status"));
    security(&mut config)?.capabilities = Some(capability);
    let text = c.output(&pod, &config).await?;
    let digits = text.split_whitespace().nth(1).unwrap_or_default();
    Ok(u64::from_str_radix(digits, 16)?)
}

fn add(names: &[&str]) -> Capability {
    Capability { add_capabilities: strings(names), ..Capability::default() }
}

fn drop(names: &[&str]) -> Capability {
    Capability { drop_capabilities: strings(names), ..Capability::default() }
}

async fn default_capabilities(c: &Context) -> Result<()> {
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        equal(set, capabilities(c, set, Capability::default()).await?, DEFAULT)?;
    }
    // Inheritable ones would survive a change of user (CVE-2022-24769).
    equal("CapInh", capabilities(c, "CapInh", Capability::default()).await?, 0)
}

async fn added(c: &Context) -> Result<()> {
    for name in ["NET_ADMIN", "net_admin"] {
        equal(name, capabilities(c, "CapEff", add(&[name])).await?, DEFAULT | NET_ADMIN)?;
    }
    Ok(())
}

async fn dropped(c: &Context) -> Result<()> {
    equal("CapEff", capabilities(c, "CapEff", drop(&["NET_RAW"])).await?, DEFAULT & !NET_RAW)?;
    equal("CapBnd", capabilities(c, "CapBnd", drop(&["NET_RAW"])).await?, DEFAULT & !NET_RAW)?;
    let both = Capability { drop_capabilities: strings(&["NET_ADMIN"]), ..add(&["NET_ADMIN"]) };
    equal("what is added and dropped", capabilities(c, "CapEff", both).await?, DEFAULT)
}

async fn all_dropped(c: &Context) -> Result<()> {
    equal("CapBnd", capabilities(c, "CapBnd", drop(&["ALL"])).await?, 0)?;
    let capability = Capability { add_capabilities: strings(&["NET_RAW"]), ..drop(&["ALL"]) };
    equal("CapEff", capabilities(c, "CapEff", capability).await?, NET_RAW)
}

async fn all_added(c: &Context) -> Result<()> {
    let own = std::fs::read_to_string("/proc/self/status")?;
    let bound = own.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap_or_default();
    // No more than the runtime itself may have.
    equal(
        "CapEff",
        capabilities(c, "CapEff", add(&["ALL"])).await?,
        u64::from_str_radix(bound, 16)?,
    )
}

async fn unprivileged(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script("grep -E 'Cap(Eff|Prm)' /proc/self/status");
    let security = security(&mut config)?;
    security.run_as_user = Some(Int64Value { value: 1001 });
    security.capabilities = Some(add(&["NET_ADMIN"]));
    let text = c.output(&pod, &config).await?;
    let wanted = "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000";
    equal("the capabilities", text, wanted)
}

async fn read_only_root(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "touch test.go 2>&1; touch /dev/shm/x && echo shm; \
        for f in hosts resolv.conf hostname; do (echo >> /etc/$f) 2> /dev/null && echo $f; done; true";
    let mut config = c.script(script);
    security(&mut config)?.readonly_rootfs = true;
    let wanted = "touch: test.go: Read-only file system\nshm";
    equal("read-only", c.output(&pod, &config).await?, wanted)?;
    let wanted = "shm\nhosts\nresolv.conf\nhostname";
    equal("not read-only", c.output(&pod, &c.script(script)).await?, wanted)
}

async fn masked(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.script(
        "wc -c < /etc/group; ls /proc/sys | wc -l; touch /proc/sys/x 2>/dev/null || echo no",
    );
    security(&mut config)?.masked_paths = strings(&["/etc/group", "/proc/sys", "/no/such/path"]);
    equal("the masked", c.output(&pod, &config).await?, "0\n0\nno")?;
    let mut config = c.script("test -s /etc/group && ls /proc/sys | wc -l");
    security(&mut config)?.masked_paths = strings(&["/proc/keys"]);
    ensure!(c.output(&pod, &config).await? != "0", "what was not asked for is masked");
    Ok(())
}

async fn read_only_paths(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "touch /tmp/a 2>&1; touch /home/b && echo free";
    let mut config = c.script(script);
    security(&mut config)?.readonly_paths = strings(&["/tmp", "/no/such/path"]);
    let wanted = "touch: /tmp/a: Read-only file system\nfree";
    equal("the paths", c.output(&pod, &config).await?, wanted)
}

async fn devices(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let script = "cd /dev; for d in null zero full random urandom tty; do test -c $d || echo no $d; done; \
        ls -d pts shm mqueue; for l in fd stdin stdout stderr ptmx; do readlink $l; done; \
        echo x > null; head -c 3 zero | wc -c; echo x > full || echo full; \
        mknod /tmp/m c 1 11; cat /tmp/m > /dev/null 2>&1 || echo denied";
    let text = c.output(&pod, &c.script(script)).await?;
    let wanted = "mqueue\npts\nshm\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n3\nfull\n\
        denied";
    equal("the devices", text, wanted)
}

async fn host_device(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config =
        c.script("exec 3< /dev/mine && echo yes; (exec 4> /dev/mine) 2> /dev/null || echo no");
    config.devices.push(cri_proto::v1::Device {
        container_path: "/dev/mine".to_owned(),
        host_path: "/dev/loop-control".to_owned(),
        permissions: "r".to_owned(),
    });
    let text = c.output(&pod, &config).await?;
    equal("reading and writing", text.lines().collect::<Vec<_>>(), ["yes", "no"])
}
