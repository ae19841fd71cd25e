//! One file for each command.

pub mod create;
pub mod events;
pub mod exec;
pub mod image;
pub mod imagefsinfo;
pub mod images;
pub mod info;
pub mod inspect;
pub mod inspecti;
pub mod inspectp;
pub mod logs;
pub mod pods;
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
pub mod stop;
pub mod stopp;
pub mod update_runtime_config;
pub mod version;

mod details;

#[cfg(test)]
mod tests;

use crate::cli::Command;
use crate::output::Output;
use crate::session::Session;

/// Runs a command that talks to a runtime.
pub async fn dispatch(
    command: Command,
    session: &Session,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    match command {
        #[cfg(feature = "daemon")]
        Command::Serve(_) => anyhow::bail!("serve is not a client's command"),
        Command::Version(args) => version::run(args, session, output).await,
        Command::Info(args) => info::run(args, session, output).await,
        Command::RuntimeConfig(args) => runtime_config::run(args, session, output).await,
        Command::UpdateRuntimeConfig(args) => {
            update_runtime_config::run(args, session, output).await
        }
        Command::Events(args) => events::run(args, session, output).await,
        Command::Pull(args) => pull::run(args, session, output).await,
        Command::Images(args) => images::run(args, session, output).await,
        Command::Inspecti(args) => inspecti::run(args, session, output).await,
        Command::Rmi(args) => rmi::run(args, session, output).await,
        Command::Imagefsinfo(args) => imagefsinfo::run(args, session, output).await,
        Command::Image(command) => image::run(command, session, output).await,
        Command::Runp(args) => runp::run(args, session, output).await,
        Command::Pods(args) => pods::run(args, session, output).await,
        Command::Inspectp(args) => inspectp::run(args, session, output).await,
        Command::Stopp(args) => stopp::run(args, session, output).await,
        Command::Rmp(args) => rmp::run(args, session, output).await,
        Command::Create(args) => create::run(args, session, output).await,
        Command::Start(args) => start::run(args, session, output).await,
        Command::Run(args) => run::run(args, session, output).await,
        Command::Ps(args) => ps::run(args, session, output).await,
        Command::Inspect(args) => inspect::run(args, session, output).await,
        Command::Exec(args) => exec::run(args, session, output).await,
        Command::Logs(args) => logs::run(args, session, output).await,
        Command::Stats(args) => stats::run(args, session, output).await,
        Command::Stop(args) => stop::run(args, session, output).await,
        Command::Rm(args) => rm::run(args, session, output).await,
    }
}
