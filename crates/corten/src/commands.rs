//! One file for each command.

pub mod attach;
pub mod create;
pub mod events;
pub mod exec;
pub mod fsck;
pub mod image;
pub mod image_tree;
pub mod imagefsinfo;
pub mod images;
pub mod info;
pub mod inspect;
pub mod inspecti;
pub mod inspectp;
pub mod logs;
pub mod pods;
pub mod port_forward;
pub mod ps;
pub mod pull;
pub mod rm;
pub mod rmi;
pub mod rmp;
pub mod run;
pub mod runp;
pub mod runtime_config;
pub mod start;
pub mod stats;
pub mod statsp;
pub mod stop;
pub mod stopp;
pub mod update;
pub mod update_runtime_config;
pub mod version;

mod details;

#[cfg(test)]
mod tests;

use std::pin::Pin;

use crate::cli::Command;
use crate::output::Output;
use crate::session::Session;

/// Runs a command that talks to a runtime.
///
/// The future is boxed: side by side in one, those of all commands would be large.
pub fn dispatch<'a>(
    command: Command,
    session: &'a Session,
    output: &'a mut Output<'_>,
) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>> {
    match command {
        #[cfg(feature = "daemon")]
        Command::Serve(_) | Command::Config(_) => {
            Box::pin(async { anyhow::bail!("this is not a client's command") })
        }
        Command::Version(args) => Box::pin(version::run(args, session, output)),
        Command::Info(args) => Box::pin(info::run(args, session, output)),
        Command::RuntimeConfig(args) => Box::pin(runtime_config::run(args, session, output)),
        Command::UpdateRuntimeConfig(args) => {
            Box::pin(update_runtime_config::run(args, session, output))
        }
        Command::Events(args) => Box::pin(events::run(args, session, output)),
        Command::Pull(args) => Box::pin(pull::run(args, session, output)),
        Command::Images(args) => Box::pin(images::run(args, session, output)),
        Command::Inspecti(args) => Box::pin(inspecti::run(args, session, output)),
        Command::Rmi(args) => Box::pin(rmi::run(args, session, output)),
        Command::Imagefsinfo(args) => Box::pin(imagefsinfo::run(args, session, output)),
        Command::Fsck(args) => Box::pin(fsck::run(args, session, output)),
        Command::Image(command) => Box::pin(image::run(command, session, output)),
        Command::Runp(args) => Box::pin(runp::run(args, session, output)),
        Command::Pods(args) => Box::pin(pods::run(args, session, output)),
        Command::Inspectp(args) => Box::pin(inspectp::run(args, session, output)),
        Command::Stopp(args) => Box::pin(stopp::run(args, session, output)),
        Command::Rmp(args) => Box::pin(rmp::run(args, session, output)),
        Command::Create(args) => Box::pin(create::run(args, session, output)),
        Command::Start(args) => Box::pin(start::run(args, session, output)),
        Command::Run(args) => Box::pin(run::run(args, session, output)),
        Command::Ps(args) => Box::pin(ps::run(args, session, output)),
        Command::Inspect(args) => Box::pin(inspect::run(args, session, output)),
        Command::Exec(args) => Box::pin(exec::run(args, session, output)),
        Command::Attach(args) => Box::pin(attach::run(args, session, output)),
        Command::PortForward(args) => Box::pin(port_forward::run(args, session, output)),
        Command::Logs(args) => Box::pin(logs::run(args, session, output)),
        Command::Stats(args) => Box::pin(stats::run(args, session, output)),
        Command::Statsp(args) => Box::pin(statsp::run(args, session, output)),
        Command::Update(args) => Box::pin(update::run(args, session, output)),
        Command::Stop(args) => Box::pin(stop::run(args, session, output)),
        Command::Rm(args) => Box::pin(rm::run(args, session, output)),
    }
}
