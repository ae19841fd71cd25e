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
    case!("user.groups_merge_or_are_strict", groups).attack().ours(),
    case!("user.status_tells_who_it_is", status).differs("1.6 has no such field"),
    case!("user.numbers_out_of_range_are_refused", numbers).attack().ours(),
    case!("user.two_ways_are_refused", two_ways).ours(),
    case!("user.of_an_image_that_lies_is_refused", lying_users).attack().ours(),
    case!("user.files_of_an_image_lead_nowhere", lying_files).attack().ours(),
    case!("user.files_of_an_image_are_never_too_long", endless_files).attack().ours().long(),
    case!("user.command_is_the_containers", command).attack().ours(),
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
    equal("the code", code(c.create(&pod, &config).await)?, Code::InvalidArgument)?;
    groups_open_and_close(c, &pod).await
}

/// What a group may read and others may not, and what all may read but a group: a group that is
/// there too much opens the one, a group that is dropped opens the other.
async fn groups_open_and_close(c: &Context, pod: &Pod) -> Result<()> {
    let mut layer = LayerBuilder::new();
    layer.owned_file("for-the-group", 0o070, (0, 50_000), b"group ")?;
    layer.owned_file("for-all-but-the-group", 0o707, (0, 50_000), b"others ")?;
    let name = publish(c, "groups", &c.runtime.catalog.busybox.with_layer(layer.finish()?)).await?;
    for (policy, wanted) in
        [(SupplementalGroupsPolicy::Merge, "group"), (SupplementalGroupsPolicy::Strict, "others")]
    {
        let script = "cat /for-the-group /for-all-but-the-group 2> /dev/null; true";
        let mut config = c.waiting();
        config.image = Some(image_spec(&name));
        let security = security(&mut config)?;
        security.run_as_username = "default-user".to_owned();
        security.supplemental_groups_policy = policy.into();
        let first = ContainerConfig {
            image: config.image.clone(),
            linux: config.linux.clone(),
            ..c.script(script)
        };
        let id = c.run(pod, &config).await?;
        equal("what a command reads", c.sh(&id, script).await?.trim_end(), wanted)?;
        equal("what the first process reads", c.output(pod, &first).await?, wanted)?;
        c.remove(&id).await?;
    }
    c.clean_up().await?;
    c.remove_image(&name).await
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

/// Puts a lie into a layer.
type Lie<'a> = &'a (dyn Fn(&mut LayerBuilder) -> Result<()> + Sync);

async fn lying_files(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    let canary = c.canary();
    let up = |name: &str| format!("../../../../../../../../..{}", canary.join(name).display());
    let (passwd, group) = (up("passwd"), up("group"));
    let long = "x:x:1:1::/:/bin/sh\n".repeat(1 << 20);
    let lies: [(&str, &str, Lie<'_>); 8] = [
        ("link", "canary", &|layer| layer.symlink("etc/passwd", &passwd).map(|_| ())),
        ("absolute-link", "canary", &|layer| {
            layer.symlink("etc/passwd", &canary.join("passwd").display().to_string()).map(|_| ())
        }),
        ("fifo", "canary", &|layer| layer.fifo("etc/passwd").map(|_| ())),
        ("device", "canary", &|layer| layer.device("etc/passwd", false, (1, 5)).map(|_| ())),
        ("long", "canary", &|layer| layer.file("etc/passwd", 0o644, long.as_bytes()).map(|_| ())),
        ("group-link", "1000:canary", &|layer| layer.symlink("etc/group", &group).map(|_| ())),
        ("group-fifo", "1000:canary", &|layer| layer.fifo("etc/group").map(|_| ())),
        ("group-device", "1000:canary", &|layer| {
            layer.device("etc/group", false, (1, 5)).map(|_| ())
        }),
    ];
    for (what, user, lie) in lies {
        refuse_lie(c, &pod, what, user, lie).await.with_context(|| what.to_owned())?;
    }
    Ok(())
}

async fn refuse_lie(c: &Context, pod: &Pod, what: &str, user: &str, lie: Lie<'_>) -> Result<()> {
    let mut layer = LayerBuilder::new();
    lie(&mut layer)?;
    let image = c.runtime.catalog.busybox.with_layer(layer.finish()?).with("User", json!(user));
    let name = publish(c, &format!("lying-file-{what}"), &image).await?;
    refused(c, pod, &name).await?;
    c.remove_image(&name).await
}

/// Files of a GiB: neither read to their end nor kept in memory.
async fn endless_files(c: &Context) -> Result<()> {
    const GIB: usize = 1 << 30;
    let pod = c.plain_pod().await?;
    for file in ["etc/passwd", "etc/group"] {
        let lie: Lie<'_> = &|layer| layer.file(file, 0o644, &vec![b'x'; GIB]).map(|_| ());
        refuse_lie(c, &pod, "gib", "canary:canary", lie).await.with_context(|| file.to_owned())?;
    }
    c.figure("a passwd and a group file of 1 GiB each are refused in time");
    c.clean_up().await
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
