//! Users and groups: of the request, of the image, of images that lie.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ContainerConfig, Int64Value, SupplementalGroupsPolicy};
use serde_json::json;
use testing::image::{Image, LayerBuilder, Layout};
use testing::wait::patient;

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, code, equal, image_spec, refusal, security};

pub(super) const CASES: &[Case] = &[
    case!("user.groups_merge_or_are_strict", groups).ours(),
    case!("user.status_tells_who_it_is", status).differs("1.6 has no such field"),
    case!("user.numbers_out_of_range_are_refused", numbers).ours(),
    case!("user.two_ways_are_refused", two_ways).ours(),
    case!("user.of_an_image_that_lies_is_refused", lying_users).ours(),
    case!("user.files_of_an_image_lead_nowhere", lying_files).ours(),
    case!("user.command_is_the_containers", command).ours(),
];

/// How long a lie may keep a request up.
const PROMPT: Duration = Duration::from_secs(10);

async fn groups(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for (policy, wanted) in [
        (SupplementalGroupsPolicy::Merge, vec![1000, 1234, 50_000]),
        (SupplementalGroupsPolicy::Strict, vec![1000, 1234]),
    ] {
        let mut config = c.waiting();
        let security = security(&mut config)?;
        security.run_as_username = "default-user".to_owned();
        security.supplemental_groups = vec![1234];
        security.supplemental_groups_policy = policy.into();
        let id = c.run(&pod, &config).await?;
        // The first process, a further one, and what is told: all the same.
        let text = c.sh(&id, "grep Groups /proc/1/status; id -G").await?;
        for line in text.trim_start_matches("Groups:").lines() {
            let mut found: Vec<i64> = line.split_whitespace().flat_map(str::parse).collect();
            found.sort_unstable();
            equal("the groups", found, wanted.clone())?;
        }
        let user = c.status(&id).await?.user.and_then(|user| user.linux).context("no user")?;
        let mut told = user.supplemental_groups;
        told.sort_unstable();
        equal("the groups that are told", told, wanted)?;
    }
    let mut config = c.waiting();
    security(&mut config)?.supplemental_groups_policy = 7;
    equal("the code", code(c.create(&pod, &config).await)?, Code::InvalidArgument)
}

async fn status(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let security = security(&mut config)?;
    security.run_as_user = Some(Int64Value { value: 1000 });
    security.run_as_group = Some(Int64Value { value: 7 });
    let id = c.run(&pod, &config).await?;
    let user = c.status(&id).await?.user.and_then(|user| user.linux).context("no user")?;
    equal("user and group", (user.uid, user.gid), (1000, 7))?;
    // The image knows the number's name, and with it a group.
    let mut groups = user.supplemental_groups;
    groups.sort_unstable();
    equal("the groups", groups, [7, 50_000])
}

/// Puts something into a request.
type Ask<'a> = &'a (dyn Fn(&mut ContainerConfig) -> Result<()> + Sync);

async fn numbers(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for number in [-1, 1 << 31, 1 << 32, i64::MAX, i64::MIN] {
        let value = Some(Int64Value { value: number });
        let asked: [Ask<'_>; 3] = [
            &|config| {
                security(config)?.run_as_user = value;
                Ok(())
            },
            &|config| {
                let security = security(config)?;
                security.run_as_user = Some(Int64Value { value: 1 });
                security.run_as_group = value;
                Ok(())
            },
            &|config| {
                security(config)?.supplemental_groups = vec![number];
                Ok(())
            },
        ];
        for ask in asked {
            let mut config = c.waiting();
            ask(&mut config)?;
            let result = c.create(&pod, &config).await;
            equal(&number.to_string(), code(result)?, Code::InvalidArgument)?;
        }
    }
    Ok(())
}

async fn two_ways(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let both = security(&mut config)?;
    both.run_as_user = Some(Int64Value { value: 1000 });
    both.run_as_username = "default-user".to_owned();
    equal("the code", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    let mut config = c.waiting();
    security(&mut config)?.run_as_group = Some(Int64Value { value: 1000 });
    equal("a group alone", code(c.create(&pod, &config).await)?, Code::InvalidArgument)
}

/// Publishes an image of the case's own.
pub(super) async fn publish(c: &Context, name: &str, image: &Image) -> Result<String> {
    let mut layout = Layout::new(&c.directory()?)?;
    layout.add("it", image)?;
    let name = format!("e2e/{name}:1");
    c.runtime.catalog.registry.push(layout.path(), "it", &name)?;
    let name = format!("docker.io/{name}");
    c.pull(&name).await?;
    Ok(name)
}

/// Refused as the image's fault, and soon; never root.
async fn refused(c: &Context, pod: &Pod, image: &str) -> Result<()> {
    let mut config = c.script("id -u");
    config.image = Some(image_spec(image));
    let begun = Instant::now();
    let error = refusal(c.create(pod, &config).await)?.to_string();
    ensure!(begun.elapsed() < patient(PROMPT), "{image}: it took {:?}", begun.elapsed());
    ensure!(!error.contains('\n'), "{image}: more than a line: {error}");
    Ok(())
}

async fn lying_users(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut layer = LayerBuilder::new();
    // Each number is a name, too, and that of root.
    let passwd = "root:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n2147483648:x:0:0::/:/bin/sh\n\
        -1:x:0:0::/:/bin/sh\n00:x:0:0::/:/bin/sh\n0x0:x:0:0::/:/bin/sh\n";
    layer.file("etc/passwd", 0o644, passwd.as_bytes())?;
    layer.file("etc/group", 0o644, b"root:x:0:\n4294967296:x:0:\n")?;
    let base = c.runtime.catalog.busybox.with_layer(layer.finish()?);
    let users =
        ["4294967296", "2147483648:0", "-1", "00", "0x0", "1000:", ":0", "1000:4294967296", "a b"];
    for (at, user) in users.into_iter().enumerate() {
        let image = base.with("User", json!(user));
        let name = publish(c, &format!("lying-user-{at}"), &image).await?;
        refused(c, &pod, &name).await.with_context(|| format!("USER {user}"))?;
        c.remove_image(&name).await?;
    }
    Ok(())
}

async fn lying_files(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let base = &c.runtime.catalog.busybox;
    let canary = c.directory()?.join("passwd");
    std::fs::write(&canary, "canary:x:0:0::/:/bin/sh\n")?;
    let target = format!("../../../../../../../../..{}", canary.display());
    type Lie<'a> = &'a (dyn Fn(&mut LayerBuilder) -> Result<()> + Sync);
    let lies: [(&str, Lie<'_>); 4] = [
        ("link", &|layer| layer.symlink("etc/passwd", &target).map(|_| ())),
        ("absolute-link", &|layer| {
            layer.symlink("etc/passwd", &canary.display().to_string()).map(|_| ())
        }),
        ("fifo", &|layer| layer.fifo("etc/passwd").map(|_| ())),
        ("long", &|layer| {
            let long = "x:x:1:1::/:/bin/sh\n".repeat(1 << 20);
            layer.file("etc/passwd", 0o644, long.as_bytes()).map(|_| ())
        }),
    ];
    for (what, lie) in lies {
        let mut layer = LayerBuilder::new();
        lie(&mut layer)?;
        let image = base.with_layer(layer.finish()?).with("User", json!("canary"));
        let name = publish(c, &format!("lying-file-{what}"), &image).await?;
        refused(c, &pod, &name).await.with_context(|| what.to_owned())?;
        c.remove_image(&name).await?;
    }
    let left = std::fs::read_to_string(&canary)?;
    equal("the canary", left, "canary:x:0:0::/:/bin/sh\n")
}

async fn command(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    let security = security(&mut config)?;
    security.run_as_username = "default-user".to_owned();
    security.supplemental_groups = vec![77];
    let id = c.run(&pod, &config).await?;
    let first = c.sh(&id, "grep -E '^(Uid|Gid|Groups|Cap)' /proc/1/status").await?;
    equal(
        "a command's",
        c.sh(&id, "grep -E '^(Uid|Gid|Groups|Cap)' /proc/self/status").await?,
        first,
    )
}
