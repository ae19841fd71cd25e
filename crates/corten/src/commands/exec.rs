//! `corten exec`.

use anyhow::bail;
use cri_proto::v1::{ExecRequest, ExecSyncRequest};
use streaming::Streams;

use crate::duration::Limit;
use crate::interactive::{self, TransportArgs};
use crate::output::{Exit, Output};
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run it in one call and show its output at its end
    #[arg(long, short = 's')]
    sync: bool,
    /// End it after this time; it is then run in one call
    #[arg(long, value_name = "TIME")]
    timeout: Option<Limit>,
    /// Pass on standard input
    #[arg(long, short = 'i')]
    interactive: bool,
    /// Give it a terminal
    #[arg(long, short = 't')]
    tty: bool,
    #[command(flatten)]
    transport: TransportArgs,
    /// The container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    #[arg(allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the program; its exit code becomes ours.
pub async fn run(args: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Args { sync, timeout, interactive, tty, transport, id, command } = args;
    if sync || timeout.is_some() {
        if interactive || tty {
            let option = if tty { "--tty" } else { "--interactive" };
            bail!("{option} needs streams, which --sync and --timeout have not");
        }
        return in_one_call(id, command, timeout, session, output).await;
    }
    let streams = Streams { stdin: interactive, stdout: true, stderr: !tty, tty };
    let request = ExecRequest {
        container_id: id,
        cmd: command,
        tty,
        stdin: interactive,
        stdout: true,
        stderr: !tty,
    };
    let address = session.runtime().await?.exec(request).await?.url;
    interactive::run(&address, streams, &transport, output).await
}

async fn in_one_call(
    container_id: String,
    cmd: Vec<String>,
    timeout: Option<Limit>,
    session: &Session,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let timeout = timeout.map_or(0, |Limit(limit)| {
        // The interface counts whole seconds; less than one must not become none.
        let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
        i64::try_from(seconds).unwrap_or(i64::MAX)
    });
    let request = ExecSyncRequest { container_id, cmd, timeout };
    let answer = session.runtime().await?.exec_sync(request).await?;
    output.out.write_all(&answer.stdout)?;
    output.err.write_all(&answer.stderr)?;
    match answer.exit_code {
        0 => Ok(()),
        // Codes are a byte; what is not is an error of its own.
        code => Err(Exit(u8::try_from(code).unwrap_or(u8::MAX)).into()),
    }
}
