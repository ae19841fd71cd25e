//! Doing one thing to several objects.

use std::future::Future;

use anyhow::bail;
use futures_util::stream::{self, StreamExt as _};

use crate::output::Output;

/// How many calls are under way at once: enough to hide waiting, few enough not
/// to be a burden on the runtime.
const AT_ONCE: usize = 8;

/// Does `work` to each of `items`, prints the line that each gives, and says at
/// the end what failed. One failure does not keep the others from being done.
pub async fn each<T, F>(
    items: impl IntoIterator<Item = T>,
    output: &mut Output<'_>,
    work: impl Fn(T) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<String>>,
{
    let mut results = stream::iter(items.into_iter().map(work)).buffered(AT_ONCE);
    let (mut done, mut failures) = (0_usize, Vec::new());
    while let Some(result) = results.next().await {
        done += 1;
        match result {
            Ok(text) if text.is_empty() => {}
            Ok(text) => writeln!(output.out, "{text}")?,
            Err(error) => failures.push(error),
        }
    }
    if failures.len() == 1 && done == 1 {
        return Err(failures.remove(0));
    }
    if failures.is_empty() {
        return Ok(());
    }
    for error in &failures {
        writeln!(output.err, "corten: {error:#}")?;
    }
    bail!("{} of {done} failed", failures.len());
}
