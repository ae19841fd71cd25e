//! A daemon of its own: the built-in network, and a socket for each service.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Result, ensure};
use cri_client::Code;
use cri_proto::v1::{ListImagesRequest, ListPodSandboxRequest};
use testing::audit::Snapshot;
use testing::{Daemon, DaemonOptions, Ground};

use crate::case;
use crate::case::Case;
use crate::catalog::{BUSYBOX, WEB};
use crate::context::{Context, code, equal};
use crate::runtime::{Control, Kind, Runtime};

pub(super) const CASES: &[Case] = &[
    case!("builtin.network_without_plugins", network).alone().ours(),
    case!("builtin.two_sockets", two_sockets).alone().ours(),
    case!("builtin.bad_configuration_is_refused", bad_configuration).alone().ours(),
];

/// The daemon's name, and so its directory on its ground.
const NAME: &str = "builtin";

/// Another daemon on another ground, with the same registry.
pub(super) async fn another(c: &Context, two_sockets: bool, tables: String) -> Result<Runtime> {
    configured(c, ground()?.0, two_sockets, tables).await
}

/// Another ground, and the name of the directory that the daemon will have there.
pub(super) fn ground() -> Result<(Arc<Ground>, &'static str)> {
    Ok((Arc::new(Ground::new()?), NAME))
}

/// Another daemon on a ground.
pub(super) async fn on(c: &Context, ground: Arc<Ground>, two_sockets: bool) -> Result<Runtime> {
    configured(c, ground, two_sockets, String::new()).await
}

/// The same, with further tables in its configuration.
async fn configured(
    c: &Context,
    ground: Arc<Ground>,
    two_sockets: bool,
    tables: String,
) -> Result<Runtime> {
    let program = c.runtime.with_daemon(|daemon| Ok(daemon.program().to_owned()))?;
    by_program(c, ground, program, two_sockets, tables).await
}

/// The same, started by another program.
pub(super) async fn by_program(
    c: &Context,
    ground: Arc<Ground>,
    program: std::path::PathBuf,
    two_sockets: bool,
    tables: String,
) -> Result<Runtime> {
    let options = DaemonOptions {
        program,
        certs_dir: c.runtime.catalog.registry.certs_dir().to_owned(),
        cni_conf_dir: None,
        two_sockets,
        tables,
        ..DaemonOptions::default()
    };
    let daemon = Daemon::start(&ground, NAME, options)?;
    let catalog = Arc::clone(&c.runtime.catalog);
    Runtime::connect(Kind::Corten, ground, catalog, Control::Corten(Box::new(daemon))).await
}

async fn network(c: &Context) -> Result<()> {
    let runtime = Arc::new(another(c, false, String::new()).await?);
    let other = Context::new(Arc::clone(&runtime), "builtin");
    other.pull(BUSYBOX).await?;
    other.pull(WEB).await?;
    other.plain_pod().await?;
    other.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;

    let pod = other.plain_pod().await?;
    let address = super::network::web_server(&other, &pod).await?;
    ensure!(address.starts_with(&runtime.ground.subnet_prefix()), "the address is {address}");
    let page = super::network::get(&format!("{address}:80")).await?;
    equal("the page", page, testing::image::PAGE)?;
    let second = other.plain_pod().await?;
    let config = other.script(&format!("wget -q -O - http://{address}/"));
    equal("the page", other.output(&second, &config).await?, testing::image::PAGE.trim_end())?;

    runtime.kill()?;
    runtime.launch().await?;
    equal("the page", super::network::get(&format!("{address}:80")).await?, testing::image::PAGE)?;
    equal("the address", other.address(&pod).await?, address)?;
    other.clean_up().await?;
    before.with_scope(runtime.audit_scope()).audit()
}

async fn two_sockets(c: &Context) -> Result<()> {
    let runtime = Arc::new(another(c, true, String::new()).await?);
    let (socket, image_socket) =
        runtime.with_daemon(|daemon| Ok((daemon.socket(), daemon.image_socket())))?;
    ensure!(socket != image_socket, "one socket");
    UnixStream::connect(&image_socket)?;
    runtime.images.list_images(ListImagesRequest::default()).await?;
    runtime.pods.list_pod_sandbox(ListPodSandboxRequest::default()).await?;
    // Each service is on its own socket only.
    let options = cri_client::Options::default();
    let image_endpoint = cri_client::Endpoint::try_from(image_socket.as_path())?;
    let wrong = cri_client::RuntimeClient::connect(image_endpoint, options).await;
    equal("the code", code(wrong.map_err(Into::into))?, Code::Unimplemented)?;
    let endpoint = cri_client::Endpoint::try_from(socket.as_path())?;
    let wrong = cri_client::ImageClient::connect(endpoint, options).await;
    equal("the code", code(wrong.map_err(Into::into))?, Code::Unimplemented)
}

async fn bad_configuration(c: &Context) -> Result<()> {
    let file = c.directory()?.join("config.toml");
    std::fs::write(&file, "[images]\ncerts_dirs = []\nno_such_key = 1\n")?;
    let program = c.runtime.with_daemon(|daemon| Ok(daemon.command().get_program().to_owned()))?;
    let output =
        std::process::Command::new(program).arg("serve").arg("--config").arg(&file).output()?;
    ensure!(!output.status.success(), "it runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    for wanted in ["no_such_key", "line 3", &file.display().to_string()] {
        ensure!(error.contains(wanted), "it does not say {wanted}: {error}");
    }
    Ok(())
}
