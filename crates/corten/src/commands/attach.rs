//! `corten attach`.

use cri_proto::v1::AttachRequest;
use streaming::Streams;

use crate::interactive::{self, TransportArgs};
use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Pass on standard input
    #[arg(long = "stdin", visible_alias = "interactive", short = 'i')]
    stdin: bool,
    /// The container has a terminal
    #[arg(long, short = 't')]
    tty: bool,
    #[command(flatten)]
    transport: TransportArgs,
    /// The container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

/// Takes part in the container's streams until it ends.
pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Args { stdin, tty, transport, id } = args;
    let streams = Streams { stdin, stdout: true, stderr: !tty, tty };
    let request = AttachRequest { container_id: id, stdin, tty, stdout: true, stderr: !tty };
    let address = session.runtime().await?.attach(request).await?.url;
    interactive::run(&address, streams, &transport, output).await
}
