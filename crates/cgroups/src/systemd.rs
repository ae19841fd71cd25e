//! One connection to systemd, over the system's bus (org.freedesktop.systemd1(5)).
//!
//! What is asked for is a job; the signal `JobRemoved` tells how it ended. All signals
//! go to one task, which hands them on to whoever waits. A connection that broke, as
//! when the bus is started anew, is made again.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::{
    runtime::Handle,
    sync::{Mutex, broadcast},
};
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, message::Type};

use crate::{CgroupError, unit::Property};

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// How long systemd may take for an answer or a job.
const LIMIT: Duration = Duration::from_secs(20);

/// How many ends of jobs may wait to be looked at: all units' jobs are told.
const MAX_ENDS: usize = 4096;

/// systemd, asked from threads that may block.
#[derive(Debug)]
pub(crate) struct Systemd {
    runtime: Handle,
    session: Mutex<Option<Session>>,
}

#[derive(Debug, Clone)]
struct Session {
    connection: Connection,
    ends: broadcast::Sender<End>,
}

/// A job that has ended.
#[derive(Debug, Clone)]
struct End {
    job: OwnedObjectPath,
    result: String,
}

impl Systemd {
    /// Connects. Must be called on the runtime that is to serve the connection.
    pub(crate) async fn connect() -> Result<Self, CgroupError> {
        let systemd = Self { runtime: Handle::current(), session: Mutex::new(None) };
        systemd.session().await.map_err(|source| failed("connect to", "systemd", source))?;
        Ok(systemd)
    }

    /// Starts a scope around processes; returns whether there was none of that name.
    pub(crate) fn start_scope(
        &self,
        unit: &str,
        properties: &[Property],
    ) -> Result<bool, CgroupError> {
        let nothing: &[(&str, &[Property])] = &[];
        let body = (unit, "fail", properties, nothing);
        match self.runtime.block_on(self.job("StartTransientUnit", &body)) {
            Ok(result) if result == "done" => Ok(true),
            Ok(result) => Err(CgroupError::Job { action: "start", unit: unit.to_owned(), result }),
            Err(error) if is_named(&error, UNIT_EXISTS) => Ok(false),
            Err(error) => Err(failed("start", unit, error)),
        }
    }

    /// Stops a unit; none of that name is fine.
    pub(crate) fn stop(&self, unit: &str) -> Result<(), CgroupError> {
        match self.runtime.block_on(self.job("StopUnit", &(unit, "replace"))) {
            Ok(_) => Ok(()),
            Err(error) if is_named(&error, NO_SUCH_UNIT) => Ok(()),
            Err(error) => Err(failed("stop", unit, error)),
        }
    }

    /// Changes limits of a unit that runs, until it ends.
    pub(crate) fn set(&self, unit: &str, properties: &[Property]) -> Result<(), CgroupError> {
        let body = (unit, true, properties);
        let set = self.runtime.block_on(self.call("SetUnitProperties", &body));
        set.map(drop).map_err(|error| failed("set the limits of", unit, error))
    }

    /// Starts a job and waits for its end.
    async fn job<B>(&self, method: &'static str, body: &B) -> zbus::Result<String>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let mut attempt = 1;
        loop {
            // Heard before it is asked for: it may end before the answer is read.
            let mut ends = self.session().await?.ends.subscribe();
            match self.call(method, body).await {
                Ok(answer) => {
                    let job: OwnedObjectPath = answer.body().deserialize()?;
                    return end_of(&mut ends, &job).await;
                }
                Err(error) if is_broken(&error) && attempt == 1 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn call<B>(&self, method: &'static str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let connection = self.session().await?.connection;
        let answer = connection.call_method(Some(SERVICE), PATH, Some(MANAGER), method, body).await;
        if answer.as_ref().is_err_and(is_broken) {
            *self.session.lock().await = None;
        }
        answer
    }

    /// The connection, made anew where it broke.
    async fn session(&self) -> zbus::Result<Session> {
        let mut session = self.session.lock().await;
        match session.as_ref().filter(|session| !session.connection.is_closed()) {
            Some(session) => Ok(session.clone()),
            None => Ok(session.insert(Session::open().await?).clone()),
        }
    }
}

impl Session {
    async fn open() -> zbus::Result<Self> {
        let connection = zbus::connection::Builder::system().method_timeout(LIMIT).build().await?;
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SERVICE)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()?;
        let signals = MessageStream::for_match_rule(rule, &connection, None).await?;
        connection.call_method(Some(SERVICE), PATH, Some(MANAGER), "Subscribe", &()).await?;
        let (ends, _) = broadcast::channel(MAX_ENDS);
        tokio::spawn(hand_on(signals, ends.clone()));
        Ok(Self { connection, ends })
    }
}

/// Hands the ends of jobs on until the connection ends.
async fn hand_on(mut signals: MessageStream, ends: broadcast::Sender<End>) {
    while let Some(Ok(signal)) = signals.next().await {
        let body = signal.body();
        if let Ok((_, job, _, result)) = body.deserialize::<(u32, OwnedObjectPath, &str, &str)>() {
            // Nobody may be waiting.
            let _ = ends.send(End { job, result: result.to_owned() });
        }
    }
}

async fn end_of(
    ends: &mut broadcast::Receiver<End>,
    job: &OwnedObjectPath,
) -> zbus::Result<String> {
    let wanted = async {
        loop {
            match ends.recv().await {
                Ok(end) if end.job == *job => return Ok(end.result),
                Ok(_) => {}
                Err(error) => return Err(zbus::Error::Failure(format!("job lost: {error}"))),
            }
        }
    };
    let late = || zbus::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    tokio::time::timeout(LIMIT, wanted).await.unwrap_or_else(|_| Err(late()))
}

fn is_named(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, _, _) if found.as_str() == name)
}

/// Whether the connection broke, so that nobody has heard the question.
fn is_broken(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(cause) if cause.kind() != std::io::ErrorKind::TimedOut)
}

fn failed(action: &'static str, unit: &str, source: zbus::Error) -> CgroupError {
    CgroupError::Systemd { action, unit: unit.to_owned(), source: Box::new(source) }
}
