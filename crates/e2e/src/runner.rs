//! Runs cases against a runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures_util::StreamExt as _;
use testing::audit::Snapshot;
use testing::wait::patient;

use crate::canary::Canary;
use crate::case::{Case, Judge, Manner};
use crate::catalog::{BUSYBOX, WEB};
use crate::context::Context;
use crate::report::{Outcome, Results};
use crate::runtime::{Kind, Runtime};

/// How many cases run at a time where nothing else is asked for: most of their time is waiting.
pub const JOBS: usize = 6;

/// After this a case has failed.
const CASE_LIMIT: Duration = Duration::from_secs(180);

/// The same for a case of the long tier.
const LONG_LIMIT: Duration = Duration::from_secs(3600);

/// So many cases that fail may have met a busy machine, and are tried once more; more of them
/// are no accident.
const MAX_SECOND: usize = 3;

/// The name under which the audits at the end of the run are reported.
pub const AUDIT: &str = "audit.nothing_is_left";

/// Runs all cases, so many at a time, and the leak audit.
///
/// # Errors
/// If the images that all cases need cannot be pulled.
pub async fn run(runtime: Arc<Runtime>, cases: &[Case], jobs: usize) -> Result<Results> {
    let setup = Context::new(Arc::clone(&runtime), "setup");
    setup.pull(BUSYBOX).await?;
    setup.pull(WEB).await?;
    // What a runtime makes with its first pod and keeps is no leak of the others.
    setup.plain_pod().await?;
    setup.clean_up().await?;
    let before = Snapshot::take(&runtime.audit_scope())?;

    let mut results = Results::default();
    let wanted = |case: &&Case| runtime.kind == Kind::Corten || case.judge != Judge::Ours;
    let (alone, together): (Vec<&Case>, Vec<&Case>) =
        cases.iter().filter(wanted).partition(|case| case.manner == Manner::Alone);
    let mut running = futures_util::stream::iter(together)
        .map(|case| run_case(Arc::clone(&runtime), case))
        .buffer_unordered(jobs.max(1));
    while let Some((name, outcome, took)) = running.next().await {
        results.add(runtime.kind, name, outcome, took);
    }
    drop(running);
    for case in alone {
        let (name, outcome, took) = run_case(Arc::clone(&runtime), case).await;
        results.add(runtime.kind, name, outcome, took);
    }
    try_again(&runtime, cases, &mut results).await;
    if runtime.kind == Kind::Corten {
        let begun = Instant::now();
        let scope = runtime.audit_scope();
        let outcome = Outcome::of(audit(&before, scope).await);
        results.add(runtime.kind, AUDIT, outcome, begun.elapsed());
    }
    Ok(results)
}

/// Runs cases of ours that failed once more, each alone, and says so.
async fn try_again(runtime: &Arc<Runtime>, cases: &[Case], results: &mut Results) {
    let failed = results.failed(runtime.kind);
    if runtime.kind != Kind::Corten || failed.len() > MAX_SECOND {
        return;
    }
    for case in cases.iter().filter(|case| failed.iter().any(|name| name == case.name)) {
        println!("once more: {}", case.name);
        let (name, outcome, took) = run_case(Arc::clone(runtime), case).await;
        results.try_again(runtime.kind, name, outcome, took);
    }
}

/// The daemon may have been replaced since: its process is not a leak.
async fn audit(before: &Snapshot, scope: testing::audit::Scope) -> Result<()> {
    let before = before.with_scope(scope);
    let limit = Duration::from_secs(10);
    let settled = crate::context::until(limit, "an empty audit", || async {
        Ok(before.leaks()?.0.is_empty().then_some(()))
    });
    if settled.await.is_err() {
        before.audit()?;
    }
    Ok(())
}

async fn run_case(runtime: Arc<Runtime>, case: &Case) -> (&'static str, Outcome, Duration) {
    let begun = Instant::now();
    let (name, run, attack) = (case.name, case.run, case.attack);
    let (kind, manner) = (runtime.kind, case.manner);
    let limit = if case.long { LONG_LIMIT } else { CASE_LIMIT };
    // A task of its own: a panic is this case's failure and no other's.
    let task = tokio::spawn(async move {
        let context = Context::new(runtime, name);
        let canary = if attack { Some(Canary::plant(&context).await?) } else { None };
        let result = match tokio::time::timeout(patient(limit), run(&context)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow!("the case does not end")),
        };
        let result = match canary {
            // Whatever the case has found: what it did to the node counts first.
            Some(canary) => canary.check(&context).await.and(result),
            None => result,
        };
        if manner == Manner::Alone {
            context.runtime.revive().await?;
        }
        let cleaned = match tokio::time::timeout(patient(CASE_LIMIT), context.clean_up()).await {
            Ok(cleaned) => cleaned.map_err(|error| error.context("failed to clean up")),
            Err(_) => Err(anyhow!("the clean-up does not end")),
        };
        result.and(cleaned)
    });
    let result = task.await.unwrap_or_else(|error| Err(anyhow!("{error}")));
    let mut outcome = Outcome::of(result);
    if let (Kind::Containerd, Judge::Differs(reason)) = (kind, case.judge) {
        outcome = outcome.known(reason);
    }
    (name, outcome, begun.elapsed())
}
