//! What images are made of: manifests, compression, layers, configurations.

use anyhow::{Result, ensure};
use cri_proto::v1::ContainerConfig;

use crate::case;
use crate::case::Case;
use crate::context::{Context, Pod, equal, image_spec};

pub(super) const CASES: &[Case] = &[
    case!("image.zstd_layers", zstd),
    case!("image.plain_layers", plain),
    case!("image.docker_manifest", docker),
    case!("image.index_selects_the_platform", index),
    case!("image.whiteouts_and_opaque_directories", layered),
    case!("image.of_many_layers", many_layers).ours(),
    case!("image.user_of_each_form", users),
    case!("image.configuration_is_used", configuration),
    case!("image.arguments_replace_command", arguments),
];

async fn zstd(c: &Context) -> Result<()> {
    runs(c, "docker.io/e2e/zstd:1").await
}

async fn plain(c: &Context) -> Result<()> {
    runs(c, "docker.io/e2e/plain:1").await
}

async fn docker(c: &Context) -> Result<()> {
    runs(c, "docker.io/e2e/docker:1").await
}

async fn index(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/index:1";
    runs(c, name).await?;
    let digest = c.runtime.catalog.registry.digest("e2e/index:1")?;
    let digests = c.present(name).await?.repo_digests;
    ensure!(digests.contains(&format!("docker.io/e2e/index@{digest}")), "digests: {digests:?}");
    Ok(())
}

async fn runs(c: &Context, image: &str) -> Result<()> {
    c.pull(image).await?;
    let pod = c.plain_pod().await?;
    let mut config = c.script("echo it runs");
    config.image = Some(image_spec(image));
    equal("the output", c.output(&pod, &config).await?, "it runs")
}

/// More than a page of options has place for, in the form that older kernels want them.
const MANY: usize = 120;

async fn of_many_layers(c: &Context) -> Result<String> {
    let mut image = c.runtime.catalog.busybox.clone();
    for number in 0..MANY {
        let mut layer = testing::image::LayerBuilder::new();
        layer.file(&format!("file{number}"), 0o644, b"")?;
        layer.file("top", 0o644, number.to_string().as_bytes())?;
        image = image.with_layer(layer.finish()?);
    }
    super::users::publish(c, "many-layers", &image).await
}

async fn all_are_there(
    c: &Context,
    pod: &Pod,
    image: &str,
    mut config: ContainerConfig,
) -> Result<()> {
    config.image = Some(image_spec(image));
    let wanted = format!("{MANY}\n{}", MANY - 1);
    equal("the files", c.output(pod, &config).await?, wanted)
}

async fn many_layers(c: &Context) -> Result<()> {
    use super::user_namespaces::{of_usual, option, pod_of, usual};
    let image = of_many_layers(c).await?;
    for handler in ["", "runc"] {
        let pod = c.run_pod_by(handler, c.pod()?).await?;
        all_are_there(c, &pod, &image, c.script(COUNT)).await?;
        let pod = c.run_pod_by(handler, pod_of(c, &option(usual()))?).await?;
        all_are_there(c, &pod, &image, of_usual(c.script(COUNT))?).await?;
    }
    let pod = c.plain_pod().await?;
    let mut config = c.script("ls /v | grep -c file; cat /v/top");
    config.mounts = vec![cri_proto::v1::Mount {
        container_path: "/v".to_owned(),
        readonly: true,
        image: Some(image_spec(&image)),
        ..Default::default()
    }];
    equal("a volume", c.output(&pod, &config).await?, format!("{MANY}\n{}", MANY - 1))?;
    c.clean_up().await?;
    c.remove_image(&image).await
}

const COUNT: &str = "ls / | grep -c file; cat /top";

async fn layered(c: &Context) -> Result<()> {
    c.pull("docker.io/e2e/layered:1").await?;
    let pod = c.plain_pod().await?;
    let mut config =
        c.script("cd /data; find . | sort; cat kept changed link; stat -c %a:%u:%g owned changed");
    config.image = Some(image_spec("docker.io/e2e/layered:1"));
    let wanted = [
        ".",
        "./becomes-directory",
        "./becomes-directory/new",
        "./becomes-file",
        "./changed",
        "./kept",
        "./link",
        "./opaque",
        "./opaque/new",
        "./owned",
        "./tree",
        "lowerupperlower4755:1000:50000",
        "600:0:0",
    ];
    equal("the content", c.output(&pod, &config).await?, wanted.join("\n"))
}

async fn users(c: &Context) -> Result<()> {
    let pod = c.plain_pod().await?;
    for (name, uid, username, id) in [
        ("user-uid", Some(1002), "", "1002:0"),
        ("user-name", None, "www-data", "33:33"),
        ("user-name-group", None, "www-data", "33:33"),
        ("user-groups", None, "default-user", "1000:1000"),
    ] {
        let name = format!("docker.io/e2e/{name}:1");
        c.pull(&name).await?;
        let image = c.present(&name).await?;
        equal("the uid", image.uid.map(|uid| uid.value), uid)?;
        equal("the user's name", &image.username, username)?;
        let mut config = c.script("echo $(id -u):$(id -g)");
        config.image = Some(image_spec(&name));
        equal(&name, c.output(&pod, &config).await?, id)?;
    }
    // The group is not in the image: its user is known, a container cannot be made.
    c.pull("docker.io/e2e/user-uid-group:1").await?;
    let image = c.present("docker.io/e2e/user-uid-group:1").await?;
    equal("the uid", image.uid.map(|uid| uid.value), Some(1003))?;
    equal("the user's name", &image.username, "")
}

async fn configuration(c: &Context) -> Result<()> {
    c.pull("docker.io/e2e/config:1").await?;
    let pod = c.plain_pod().await?;
    let mut config = c.command(&[]);
    config.image = Some(image_spec("docker.io/e2e/config:1"));
    equal("entry point and command", c.output(&pod, &config).await?, "entry command")?;

    let mut config = c.command(&["/bin/sh", "-c", "pwd; echo $FROM_IMAGE $BOTH $OWN"]);
    config.image = Some(image_spec("docker.io/e2e/config:1"));
    for (key, value) in [("BOTH", "container"), ("OWN", "yes")] {
        let (key, value) = (key.to_owned(), value.into());
        config.envs.push(cri_proto::v1::KeyValue { key, value });
    }
    equal("the environment", c.output(&pod, &config).await?, "/srv/made\nyes container yes")?;

    let mut config = c.command(&["pwd"]);
    config.image = Some(image_spec("docker.io/e2e/config:1"));
    config.working_dir = "/another/made".to_owned();
    equal("the directory", c.output(&pod, &config).await?, "/another/made")
}

async fn arguments(c: &Context) -> Result<()> {
    c.pull("docker.io/e2e/config:1").await?;
    let pod = c.plain_pod().await?;
    let mut config = c.command(&[]);
    config.image = Some(image_spec("docker.io/e2e/config:1"));
    config.args = crate::context::strings(&["argument"]);
    equal("the output", c.output(&pod, &config).await?, "entry argument")?;

    let mut config = c.command(&["/bin/echo", "own"]);
    config.image = Some(image_spec("docker.io/e2e/config:1"));
    // A command replaces the image's command too.
    equal("the output", c.output(&pod, &config).await?, "own")
}
