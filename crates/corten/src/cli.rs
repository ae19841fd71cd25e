//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands as c;
use crate::duration::Limit;

/// A Kubernetes container runtime, and a client of any such runtime.
#[derive(Debug, Parser)]
#[command(name = "corten", version, about, max_term_width = 100)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of all commands; they stand before the command.
#[derive(Args, Debug, Default)]
pub struct Global {
    /// The runtime's socket [default: the first that exists of Corten's,
    /// containerd's and CRI-O's]
    #[arg(long, short = 'r', value_name = "ENDPOINT", env = "CONTAINER_RUNTIME_ENDPOINT")]
    pub runtime_endpoint: Option<String>,
    /// The socket of the image service [default: the runtime's]
    #[arg(long, short = 'i', value_name = "ENDPOINT", env = "IMAGE_SERVICE_ENDPOINT")]
    pub image_endpoint: Option<String>,
    /// How long a call may take, such as 2s or 1m30s [default: 2s, and 2m for
    /// calls that change something]
    #[arg(long, short = 't', value_name = "TIME")]
    pub timeout: Option<Limit>,
    /// The settings file [default: /etc/corten/cli.yaml or /etc/crictl.yaml]
    #[arg(long, short = 'c', value_name = "FILE", env = "CRI_CONFIG_FILE")]
    pub config: Option<PathBuf>,
    /// Log the calls that are made to standard error
    #[arg(long, short = 'D')]
    pub debug: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    #[cfg(feature = "daemon")]
    Serve(crate::serve::Args),
    /// Show, check and change the daemon's settings
    #[cfg(feature = "daemon")]
    #[command(subcommand)]
    Config(crate::serve::config::Command),

    /// Show the runtime's name and version
    Version(c::version::Args),
    /// Show the runtime's conditions, handlers and configuration
    Info(c::info::Args),
    /// Show what the runtime tells the kubelet about its configuration
    RuntimeConfig(c::runtime_config::Args),
    /// Tell the runtime the range of pod addresses
    UpdateRuntimeConfig(c::update_runtime_config::Args),
    /// Show containers' events as they happen
    Events(c::events::Args),

    /// Fetch an image from a registry
    Pull(c::pull::Args),
    /// List images
    #[command(visible_alias = "img")]
    Images(c::images::Args),
    /// Show images
    Inspecti(c::inspecti::Args),
    /// Remove images
    Rmi(c::rmi::Args),
    /// Show the use of the images' file systems
    Imagefsinfo(c::imagefsinfo::Args),
    /// Look for damage of images, and repair it (Corten only)
    Fsck(c::fsck::Args),
    /// Work on images in ways that the CRI has no call for (Corten only)
    #[command(subcommand)]
    Image(c::image::Command),

    /// Run a new pod
    Runp(c::runp::Args),
    /// List pods
    Pods(c::pods::Args),
    /// Show pods
    Inspectp(c::inspectp::Args),
    /// Stop pods
    Stopp(c::stopp::Args),
    /// Remove pods
    Rmp(c::rmp::Args),

    /// Create a container in a pod
    Create(c::create::Args),
    /// Start created containers
    Start(c::start::Args),
    /// Run a container in a new pod
    Run(c::run::Args),
    /// List containers
    Ps(c::ps::Args),
    /// Show containers
    Inspect(c::inspect::Args),
    /// Run a program in a running container
    Exec(c::exec::Args),
    /// Take part in the streams of a running container
    Attach(c::attach::Args),
    /// Forward ports of this machine to a pod's
    PortForward(c::port_forward::Args),
    /// Show a container's log
    Logs(c::logs::Args),
    /// Show containers' use of resources
    Stats(c::stats::Args),
    /// Show pods' use of resources
    Statsp(c::statsp::Args),
    /// Change the resources of containers
    Update(c::update::Args),
    /// Stop running containers
    Stop(c::stop::Args),
    /// Remove containers
    Rm(c::rm::Args),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
