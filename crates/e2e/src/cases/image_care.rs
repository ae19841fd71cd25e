//! What the daemon does to keep images whole, and who may use them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ImageStatusRequest, PullImageRequest};
use serde_json::Value;
use testing::Ground;

use crate::case;
use crate::case::{Case, Need};
use crate::context::{Context, code, equal, image_spec, refusal};
use crate::runtime::Runtime;

pub(super) const CASES: &[Case] = &[
    case!("image_care.policy_at_pull_and_create", policy).alone().ours(),
    case!("image_care.saved_and_loaded_it_runs", save_and_load).alone().ours(),
    case!("image_care.killed_in_a_pull_it_is_whole_or_absent", killed).alone().ours(),
    case!("image_care.damage_after_a_power_cut_is_found", power_cut).alone().ours(),
    case!("image_care.verbose_status_tells_layers", verbose).ours(),
    case!("image_care.checked_and_repaired_without_a_daemon", offline).alone().ours(),
    case!("image_care.containerds_images_are_taken_over", from_containerd)
        .alone()
        .ours()
        .needs(&[Need::Containerd]),
];

/// Runs our own command line against the daemon.
fn corten(c: &Context, arguments: &[&str]) -> Result<Output> {
    let (program, socket) =
        c.runtime.with_daemon(|daemon| Ok((daemon.program().to_owned(), daemon.image_socket())))?;
    let endpoint = format!("unix://{}", socket.display());
    let mut command = Command::new(program);
    command.args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]);
    command.args(arguments).output().context("failed to run corten")
}

fn text_of(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Removes the policy whatever happens.
struct Policy(PathBuf);

impl Drop for Policy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn policy(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/one:latest";
    c.pull(name).await?;
    let pod = c.plain_pod().await?;
    let policy = Policy(c.runtime.with_daemon(|daemon| Ok(daemon.policy()))?);
    fs::write(&policy.0, r#"{"default":[{"type":"reject"}]}"#)?;
    let pulled = c.pull(name).await;
    let error = refusal(pulled)?;
    // The kubelet looks at the start of what is left without the code, if it is Unknown.
    ensure!(error.to_string().contains("SignatureValidationFailed: "), "the error is {error}");
    equal("the code", code::<()>(Err(error))?, Code::Unknown)?;
    let mut config = c.command(&["true"]);
    config.image = Some(image_spec(name));
    let error = refusal(c.create(&pod, &config).await)?.to_string();
    ensure!(error.contains("SignatureValidationFailed: "), "the error is {error}");
    drop(policy);
    let id = c.create(&pod, &config).await?;
    c.remove(&id).await
}

async fn save_and_load(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/layered:1";
    let id = c.pull(name).await?;
    let archive = c.directory()?.join("saved.tar");
    let path = archive.display().to_string();
    let saved = corten(c, &["image", "save", "--output", &path, name])?;
    ensure!(saved.status.success(), "{}", text_of(&saved));
    let tree = text_of(&corten(c, &["image", "tree", name])?);
    ensure!(tree.starts_with(&format!("{name} (")), "{tree}");
    c.remove_image(name).await?;
    ensure!(c.image(name).await?.is_none(), "the image is still there");
    let loaded = corten(c, &["image", "load", &path])?;
    equal("what is said", text_of(&loaded), format!("Loaded: {name}\n"))?;
    equal("the id", c.present(name).await?.id, id)?;
    let pod = c.plain_pod().await?;
    let mut config = c.waiting();
    config.image = Some(image_spec(name));
    let container = c.run(&pod, &config).await?;
    equal("a file", c.sh(&container, "cat /data/changed").await?, "upper".to_owned())?;
    let checked = corten(c, &["fsck", "--read"])?;
    ensure!(checked.status.success(), "{}", text_of(&checked));
    c.stop(&container, 0).await?;
    c.remove(&container).await?;
    c.remove_image(name).await
}

async fn killed(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/layered:1";
    for step in 0..10 {
        c.remove_image(name).await?;
        let images = c.runtime.images.clone();
        let request =
            PullImageRequest { image: Some(image_spec(name)), ..PullImageRequest::default() };
        let pull = tokio::spawn(async move { images.pull_image(request).await.is_ok() });
        tokio::time::sleep(Duration::from_millis(step * 12)).await;
        c.runtime.kill()?;
        let answered = pull.await?;
        c.runtime.launch().await?;
        let present = c.image(name).await?.is_some();
        ensure!(present || !answered, "the pull was answered, and the image is gone");
        let checked = corten(c, &["fsck", "--read"])?;
        ensure!(checked.status.success(), "after {step} steps: {}", text_of(&checked));
        if present {
            let container = c.run(&c.plain_pod().await?, &layered(c)).await?;
            equal("a file", c.sh(&container, "cat /data/changed").await?, "upper".to_owned())?;
            c.stop(&container, 0).await?;
            c.remove(&container).await?;
        }
    }
    c.pull(name).await?;
    c.remove_image(name).await
}

fn layered(c: &Context) -> cri_proto::v1::ContainerConfig {
    let mut config = c.waiting();
    config.image = Some(image_spec("docker.io/e2e/layered:1"));
    config
}

/// Another boot is what the daemon takes for the sign of one.
async fn power_cut(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/layered:1";
    let id = c.pull(name).await?;
    let status = verbose_info(c, name).await?;
    let layer = status["layers"].as_array().and_then(|layers| layers.last()).cloned();
    let layer = layer.as_ref().and_then(Value::as_str).context("no layers")?;
    let root = c.runtime.with_daemon(|daemon| Ok(daemon.root()))?;
    let file = root.join("snapshots/layers").join(layer.trim_start_matches("sha256:"));
    let file = file.join("data/owned");
    // What a journal can leave of a file that was not synced.
    fs::File::options().write(true).open(&file)?.set_len(0)?;
    c.runtime.kill()?;
    fs::write(root.join("boot-id"), "another")?;
    c.runtime.launch().await?;
    ensure!(c.image(name).await?.is_none(), "the damaged image is listed");
    equal("the id", c.pull(name).await?, id)?;
    equal("the healed file", fs::read_to_string(&file)?, "top".to_owned())?;
    c.remove_image(name).await
}

async fn verbose_info(c: &Context, name: &str) -> Result<Value> {
    let request = ImageStatusRequest { image: Some(image_spec(name)), verbose: true };
    let answer = c.runtime.images.image_status(request).await?;
    let info = answer.info.get("info").context("no information")?;
    Ok(serde_json::from_str(info)?)
}

async fn verbose(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/two:latest";
    c.pull(name).await?;
    let info = verbose_info(c, name).await?;
    let count = |key: &str| info[key].as_array().map_or(0, Vec::len);
    ensure!(count("layers") > 0 && count("layers") == count("layerBytes"), "{info}");
    ensure!(info["layerBytes"][0].as_u64().is_some_and(|bytes| bytes > 4096), "{info}");
    // One that is not there and not on its way has no information.
    let request = ImageStatusRequest { image: Some(image_spec("e2e/none:1")), verbose: true };
    ensure!(
        c.runtime.images.image_status(request).await?.info.is_empty(),
        "information of nothing"
    );
    Ok(())
}

/// Checks the daemon's root directory without the daemon.
fn check_offline(c: &Context, options: &[&str]) -> Result<Output> {
    let root = c.runtime.with_daemon(|daemon| Ok(daemon.root()))?.display().to_string();
    corten(c, &[&["fsck", "--offline", "--root", &root], options].concat())
}

async fn offline(c: &Context) -> Result<()> {
    let name = "docker.io/e2e/layered:1";
    let id = c.pull(name).await?;
    let info = verbose_info(c, name).await?;
    let refused = check_offline(c, &[])?;
    let pid = c.runtime.with_daemon(|daemon| daemon.pid())?;
    ensure!(!refused.status.success(), "the daemon's root was taken");
    ensure!(text_of(&refused).contains(&format!("process {pid}")), "{}", text_of(&refused));

    let root = c.runtime.with_daemon(|daemon| Ok(daemon.root()))?;
    c.runtime.kill()?;
    let checked = check_offline(c, &["--read"])?;
    ensure!(checked.status.success(), "{}", text_of(&checked));
    let layers = info["layers"].as_array().context("no layers")?.iter();
    let mut files = layers.filter_map(Value::as_str).map(|layer| {
        let hex = layer.trim_start_matches("sha256:");
        root.join("snapshots/layers").join(hex).join("data/kept")
    });
    let file = files.find(|file| file.exists()).context("no layer has the file")?;
    // The same length and time: only who reads it can tell.
    let (kept, meta) = (fs::read(&file)?, fs::metadata(&file)?);
    fs::write(&file, vec![b'x'; kept.len()])?;
    fs::File::options().write(true).open(&file)?.set_modified(meta.modified()?)?;
    for (options, wanted, words) in [
        (&[][..], 0, ": 0 damaged"),
        (&["--read"], 4, "its files make sha256:"),
        (&["--read", "--repair"], 1, "removed, with"),
        (&["--read"], 0, ": 0 damaged"),
    ] {
        let checked = check_offline(c, options)?;
        equal(&format!("the code of {options:?}"), checked.status.code(), Some(wanted))?;
        ensure!(text_of(&checked).contains(words), "{options:?}: {}", text_of(&checked));
    }
    c.runtime.launch().await?;
    ensure!(c.image(name).await?.is_none(), "the damaged image is listed");
    equal("the id", c.pull(name).await?, id)?;
    equal("the healed file", fs::read(&file)?, kept)?;
    c.remove_image(name).await
}

/// A store that Debian's containerd has made, and that it left by being killed.
async fn from_containerd(c: &Context) -> Result<()> {
    // What containerd has unpacked of one image it does not fetch again for another, so these
    // two have no layer that is the same and is compressed in two ways.
    let names = ["docker.io/e2e/layered:1", "docker.io/e2e/index:1"];
    let ground = Arc::new(Ground::new()?);
    let containerd =
        Runtime::containerd(Arc::clone(&ground), Arc::clone(&c.runtime.catalog)).await?;
    let mut ids = Vec::new();
    for name in names {
        c.remove_image(name).await?;
        let request =
            PullImageRequest { image: Some(image_spec(name)), ..PullImageRequest::default() };
        ids.push(containerd.images.pull_image(request).await?.image_ref);
    }
    containerd.kill()?;
    let store = ground.path().join("containerd/root").display().to_string();
    let loaded = corten(c, &["image", "load", "--containerd", &store])?;
    ensure!(loaded.status.success(), "{}", text_of(&loaded));
    for (name, id) in names.iter().zip(ids) {
        ensure!(text_of(&loaded).contains(&format!("Loaded: {name}\n")), "{}", text_of(&loaded));
        equal("the id", c.present(name).await?.id, id)?;
    }
    let checked = corten(c, &["fsck", "--read"])?;
    ensure!(checked.status.success(), "{}", text_of(&checked));
    let container = c.run(&c.plain_pod().await?, &layered(c)).await?;
    equal("a file", c.sh(&container, "cat /data/changed").await?, "upper".to_owned())?;
    c.stop(&container, 0).await?;
    c.remove(&container).await?;
    let missing = corten(c, &["image", "load", "--containerd", &store, "docker.io/e2e/none:1"])?;
    ensure!(
        text_of(&missing).contains("no image \"docker.io/e2e/none:1\""),
        "{}",
        text_of(&missing)
    );
    for name in names {
        c.remove_image(name).await?;
    }
    Ok(())
}
