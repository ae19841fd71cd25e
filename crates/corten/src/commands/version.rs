//! `corten version`.

use cri_proto::v1::VersionRequest;

use crate::output::Output;
use crate::session::Session;

#[derive(clap::Args, Debug)]
pub struct Args {}

pub async fn run(_: Args, session: &Session, output: &mut Output<'_>) -> anyhow::Result<()> {
    let runtime = session.runtime().await?;
    let version = runtime.api_version().to_string();
    let answer = runtime.version(VersionRequest { version }).await?;
    // crictl's spaces, which scripts cut at.
    writeln!(output.out, "Version:  {}", answer.version)?;
    writeln!(output.out, "RuntimeName:  {}", answer.runtime_name)?;
    writeln!(output.out, "RuntimeVersion:  {}", answer.runtime_version)?;
    writeln!(output.out, "RuntimeApiVersion:  {}", answer.runtime_api_version)?;
    Ok(())
}
