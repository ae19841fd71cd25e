//! `corten pull`, and pulling before a container is made.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use cri_client::ImageClient;
use cri_proto::v1::{
    AuthConfig, ContainerConfig, ImageFsInfoRequest, ImageSpec, ImageStatusRequest,
    PodSandboxConfig, PullImageRequest,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::details;
use crate::output::Output;
use crate::select::pairs;
use crate::session::Session;
use crate::{human, input};

/// How often the runtime is asked how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// How often the progress line moves.
const TICK: Duration = Duration::from_millis(100);

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image, such as docker.io/library/busybox:latest
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    #[command(flatten)]
    credentials: Credentials,
    /// An annotation for the runtime; may be repeated
    #[arg(long, short = 'a', value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// The pod that the image is pulled for, JSON or YAML
    #[arg(long, value_name = "FILE")]
    pod_config: Option<PathBuf>,
}

/// Who pulls.
#[derive(clap::Args, Debug, Default)]
pub struct Credentials {
    /// The registry's user and password
    #[arg(long, value_name = "USER[:PASSWORD]", conflicts_with = "auth")]
    creds: Option<String>,
    /// The user and password in base64, as in Docker's configuration
    #[arg(long, value_name = "BASE64")]
    auth: Option<String>,
}

impl Credentials {
    fn config(&self) -> anyhow::Result<Option<AuthConfig>> {
        if let Some(creds) = &self.creds {
            let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
            if username.is_empty() {
                bail!("--creds has no user, give it as USER:PASSWORD");
            }
            return Ok(Some(AuthConfig {
                username: username.to_owned(),
                password: password.to_owned(),
                ..AuthConfig::default()
            }));
        }
        Ok(self.auth.clone().map(|auth| AuthConfig { auth, ..AuthConfig::default() }))
    }
}

pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let pod = args.pod_config.as_deref().map(input::pod).transpose()?;
    let sandbox_config = match pod {
        Some(loaded) => {
            details::warnings(output, &loaded.warnings)?;
            Some(loaded.message)
        }
        None => None,
    };
    let annotations = pairs("--annotation", &args.annotation)?;
    let request = request(&args.image, annotations, &args.credentials, sandbox_config)?;
    let image_ref = pull(session.images().await?, request).await?;
    writeln!(output.out, "Image is up to date for {image_ref}")?;
    Ok(())
}

/// Pulls the images that a container needs: its own and those it mounts.
pub async fn for_container(
    config: &ContainerConfig,
    pod: &PodSandboxConfig,
    credentials: &Credentials,
    session: &Session,
) -> anyhow::Result<()> {
    let own = config.image.clone().unwrap_or_default();
    let mounted = config.mounts.iter().filter_map(|mount| mount.image.as_ref());
    let mounted = mounted.map(|image| &image.image).filter(|name| !name.is_empty());
    for name in std::iter::once(&own.image).chain(mounted) {
        let request = request(name, own.annotations.clone(), credentials, Some(pod.clone()))?;
        pull(session.images().await?, request).await?;
    }
    Ok(())
}

fn request(
    image: &str,
    annotations: HashMap<String, String>,
    credentials: &Credentials,
    sandbox_config: Option<PodSandboxConfig>,
) -> anyhow::Result<PullImageRequest> {
    let image = ImageSpec { image: image.to_owned(), annotations, ..ImageSpec::default() };
    Ok(PullImageRequest { image: Some(image), auth: credentials.config()?, sandbox_config })
}

/// Pulls, with a line of progress where a person looks on.
async fn pull(images: &ImageClient, request: PullImageRequest) -> anyhow::Result<String> {
    let name = request.image.as_ref().map_or("", |image| image.image.as_str()).to_owned();
    let terminal = std::io::stderr().is_terminal();
    let progress = if terminal { progress_line(&name) } else { ProgressBar::hidden() };
    let result = tokio::select! {
        answer = images.pull_image(request) => answer,
        never = show_progress(images, &name, &progress), if terminal => match never {},
    };
    progress.finish_and_clear();
    Ok(result?.image_ref)
}

fn progress_line(name: &str) -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    style(&progress, "{spinner} Pulling {prefix} [{elapsed_precise}] {msg}");
    progress.set_prefix(name.to_owned());
    progress.enable_steady_tick(TICK);
    progress
}

fn style(progress: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
}

/// Shows how far the pull is. What only Corten tells is shown where it does; elsewhere by
/// how much the images' file systems grew.
async fn show_progress(
    images: &ImageClient,
    name: &str,
    progress: &ProgressBar,
) -> std::convert::Infallible {
    let mut first = None;
    let mut is_told = false;
    loop {
        if let Some(now) = progress_of(images, name).await {
            if !is_told && now.bytes_total > 0 {
                is_told = true;
                style(progress, BAR);
            }
            now.show(progress);
        } else if !is_told && let Some(used) = used_bytes(images).await {
            let first = *first.get_or_insert(used);
            if used > first {
                progress.set_message(format!("{} stored", human::size(used - first)));
            }
        }
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}

/// Layers, rate and the time that remains.
const BAR: &str = "{spinner} Pulling {prefix} [{elapsed_precise}] [{bar:30}] \
                   {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {msg}, {eta} left";

/// How far a pull is, as Corten tells it.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    layers_total: u64,
    layers_done: u64,
    bytes_total: u64,
    bytes_done: u64,
}

impl Progress {
    /// Reads it from the information of a verbose status.
    fn of(info: &HashMap<String, String>) -> Option<Self> {
        let all: Vec<Self> = serde_json::from_str(info.get("progress")?).ok()?;
        all.into_iter().next()
    }

    fn show(&self, progress: &ProgressBar) {
        if self.bytes_total == 0 {
            return;
        }
        progress.set_length(self.bytes_total);
        progress.set_position(self.bytes_done.min(self.bytes_total));
        progress.set_message(format!("layers {}/{}", self.layers_done, self.layers_total));
    }
}

async fn progress_of(images: &ImageClient, name: &str) -> Option<Progress> {
    let spec = ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
    let request = ImageStatusRequest { image: Some(spec), verbose: true };
    Progress::of(&images.image_status(request).await.ok()?.info)
}

async fn used_bytes(images: &ImageClient) -> Option<u64> {
    let answer = images.image_fs_info(ImageFsInfoRequest {}).await.ok()?;
    let used = answer.image_filesystems.iter().filter_map(|fs| fs.used_bytes.as_ref());
    Some(used.map(|used| used.value).fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_and_shown() {
        let text = r#"[{"reference":"x","elapsedMs":5,"layersTotal":6,"layersDone":2,"bytesTotal":1000,"bytesDone":250}]"#;
        let info = HashMap::from([("progress".to_owned(), text.to_owned())]);
        let now = Progress::of(&info).expect("progress");
        let bar = ProgressBar::hidden();
        now.show(&bar);
        assert_eq!(
            (bar.position(), bar.length(), bar.message()),
            (250, Some(1000), "layers 2/6".into())
        );
        for text in ["", "[]", "{}", "[{}]"] {
            let info = HashMap::from([("progress".to_owned(), text.to_owned())]);
            assert_eq!(Progress::of(&info), None, "{text}");
        }
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
