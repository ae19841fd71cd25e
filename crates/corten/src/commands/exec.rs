//! `corten exec`.

use anyhow::bail;
use cri_proto::v1::ExecSyncRequest;

use crate::duration::Limit;
use crate::output::{Exit, Output};
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run it and wait for it; without -i and -t this is always done
    #[arg(long, short = 's')]
    sync: bool,
    /// End it after this time
    #[arg(long, value_name = "TIME")]
    timeout: Option<Limit>,
    /// Pass on standard input
    #[arg(long, short = 'i')]
    interactive: bool,
    /// Give it a terminal
    #[arg(long, short = 't')]
    tty: bool,
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
    if args.interactive || args.tty {
        let option = if args.tty { "--tty" } else { "--interactive" };
        bail!("exec {option} needs the streaming calls, which this version has not; leave it out");
    }
    let timeout = args.timeout.map_or(0, |Limit(limit)| {
        // The interface counts whole seconds; less than one must not become none.
        let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
        i64::try_from(seconds).unwrap_or(i64::MAX)
    });
    let request = ExecSyncRequest { container_id: args.id, cmd: args.command, timeout };
    let answer = session.runtime().await?.exec_sync(request).await?;
    output.out.write_all(&answer.stdout)?;
    output.err.write_all(&answer.stderr)?;
    match answer.exit_code {
        0 => Ok(()),
        // Codes are a byte; what is not is an error of its own.
        code => Err(Exit(u8::try_from(code).unwrap_or(u8::MAX)).into()),
    }
}
