//! What calls are answered with, and how long that takes: by method, of every service and version.
//!
//! A call begins with its head and ends with its answer's last frame. Its method is one of a table
//! that is made at the start, so that a client cannot add to it; what it costs is a look-up and
//! four additions.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use cri_proto::{
    containerd::services::{
        containers::v1::containers_server::ContainersServer, tasks::v1::tasks_server::TasksServer,
        version::v1::version_server::VersionServer,
    },
    corten_v1::image_admin_server::ImageAdminServer,
};
use http::HeaderMap;
use metrics::{Durations, Exposition, Kind};
use tonic::{Code, server::NamedService};

use crate::{
    legacy,
    service::{CALLS, Server},
};

/// The codes of gRPC, by their numbers, as Go's libraries and their dashboards name them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Calls that are not the CRI's, by service.
const OTHERS: [(&str, &[&str]); 4] = [
    (<ContainersServer<Server> as NamedService>::NAME, &["Get"]),
    (<TasksServer<Server> as NamedService>::NAME, &["Get"]),
    (<VersionServer<Server> as NamedService>::NAME, &["Version"]),
    (<ImageAdminServer<Server> as NamedService>::NAME, &["Load", "Save", "Check"]),
];

/// What calls were answered with since the daemon started, by method.
#[derive(Debug)]
pub struct RpcFigures {
    methods: Vec<Method>,
    /// The number of each method, by its path.
    by_path: HashMap<String, usize>,
}

#[derive(Debug)]
struct Method {
    service: String,
    name: &'static str,
    started: AtomicU64,
    /// How many ended, by their code.
    handled: [AtomicU64; CODES.len()],
    durations: Durations,
}

/// A call that is being answered. Dropped before its end, it was given up by its client.
#[derive(Debug)]
pub struct RpcInFlight {
    figures: Arc<RpcFigures>,
    method: usize,
    since: Instant,
    is_ended: bool,
}

impl RpcFigures {
    /// Makes the table of all methods.
    pub fn new() -> Arc<Self> {
        let cri = CALLS.iter().flat_map(|call| {
            let is_legacy = legacy::has_call(call.service, call.name);
            let versions = [Some("v1"), is_legacy.then_some("v1alpha2")];
            versions
                .into_iter()
                .flatten()
                .map(|version| (format!("runtime.{version}.{}", call.service), call.name))
        });
        let others = OTHERS
            .iter()
            .flat_map(|(service, names)| names.iter().map(|name| ((*service).to_owned(), *name)));
        // What is none of them, last.
        let unknown = [("unknown".to_owned(), "unknown")];
        let methods: Vec<_> = cri
            .chain(others)
            .chain(unknown)
            .map(|(service, name)| Method {
                service,
                name,
                started: AtomicU64::default(),
                handled: Default::default(),
                durations: Durations::default(),
            })
            .collect();
        let path = |method: &Method| format!("/{}/{}", method.service, method.name);
        let by_path = methods.iter().enumerate().map(|(n, m)| (path(m), n)).collect();
        Arc::new(Self { methods, by_path })
    }

    /// Counts a call that begins, by its path.
    pub fn begin(self: &Arc<Self>, path: &str) -> RpcInFlight {
        let method = self.by_path.get(path).copied().unwrap_or(self.methods.len() - 1);
        self.methods[method].started.fetch_add(1, Relaxed);
        RpcInFlight { figures: self.clone(), method, since: Instant::now(), is_ended: false }
    }

    /// Writes all of it for Prometheus. A method that was not called is left out.
    pub fn write(&self, exposition: &mut Exposition) {
        // What has ended is read first: it is part of what was begun.
        let handled: Vec<_> = self.methods.iter().map(Method::handled).collect();
        let called: Vec<_> = self
            .methods
            .iter()
            .zip(handled)
            .map(|(method, handled)| (method, handled, method.started.load(Relaxed)))
            .filter(|(_, _, started)| *started > 0)
            .collect();
        let labels =
            |method: &'_ Method| [("grpc_type", method.kind()), ("grpc_method", method.name)];
        let help = "Calls that were begun.";
        let mut family = exposition.family(Kind::Counter, "grpc_server_started", help);
        for (method, _, started) in &called {
            let [kind, name] = labels(method);
            family.sample(&[kind, ("grpc_service", &method.service), name], *started);
        }
        let help = "Calls that have ended, by the code that they were answered with.";
        let mut family = exposition.family(Kind::Counter, "grpc_server_handled", help);
        for (method, handled, _) in &called {
            let [kind, name] = labels(method);
            let codes = CODES.iter().zip(handled).filter(|(_, count)| **count > 0);
            for (code, count) in codes {
                let service = ("grpc_service", method.service.as_str());
                family.sample(&[kind, service, name, ("grpc_code", code)], *count);
            }
        }
        let help = "Calls that are being answered.";
        let mut family = exposition.family(Kind::Gauge, "corten_rpc_in_flight", help);
        for (method, handled, started) in &called {
            let in_flight = started.saturating_sub(handled.iter().sum());
            let service = ("grpc_service", method.service.as_str());
            family.sample(&[service, ("grpc_method", method.name)], in_flight);
        }
        let help = "How long calls took from their head to the end of their answer, in seconds.";
        let mut family = exposition.family(Kind::Histogram, "corten_rpc_duration_seconds", help);
        for (method, _, _) in &called {
            let service = ("grpc_service", method.service.as_str());
            let labels = [service, ("grpc_method", method.name)];
            family.histogram(&labels, &method.durations.read());
        }
    }
}

impl Method {
    fn handled(&self) -> [u64; CODES.len()] {
        self.handled.each_ref().map(|count| count.load(Relaxed))
    }

    /// As Go's libraries have it.
    fn kind(&self) -> &'static str {
        match self.name {
            "Load" => "client_stream",
            "Save" | "GetContainerEvents" => "server_stream",
            name if name.starts_with("Stream") => "server_stream",
            _ => "unary",
        }
    }
}

impl RpcInFlight {
    /// Hears the head or the trailers of the answer, one of which has the code.
    pub fn heard(&mut self, headers: &HeaderMap) {
        let Some(code) = headers.get("grpc-status") else { return };
        self.end(Code::from_bytes(code.as_bytes()));
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        let method = &self.figures.methods[self.method];
        method.durations.count(self.since.elapsed());
        // The numbers of gRPC's codes are those of the table.
        method.handled[code as usize].fetch_add(1, Relaxed);
    }
}

impl Drop for RpcInFlight {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(figures: &RpcFigures) -> Vec<String> {
        let mut exposition = Exposition::new(metrics::Format::Text);
        figures.write(&mut exposition);
        exposition.finish().lines().map(str::to_owned).collect()
    }

    fn status(code: i32) -> HeaderMap {
        [(http::HeaderName::from_static("grpc-status"), code.to_string().parse().unwrap())]
            .into_iter()
            .collect()
    }

    #[test]
    fn codes_have_their_numbers() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from_i32(i32::try_from(number).unwrap());
            assert_eq!(code as usize, number);
            // Go spells this one its own way.
            let ours = format!("{code:?}").replace("Cancelled", "Canceled").replace("Ok", "OK");
            assert_eq!(ours, *name);
        }
    }

    #[test]
    fn calls_are_counted_by_method_version_and_code() {
        let figures = RpcFigures::new();
        assert!(written(&figures).iter().all(|line| line.starts_with('#')));
        let v1 = "/runtime.v1.RuntimeService/ExecSync";
        figures.begin(v1).heard(&status(4));
        // The first code counts, and a head without one says nothing.
        let mut call = figures.begin(v1);
        call.heard(&HeaderMap::new());
        call.heard(&status(0));
        call.heard(&status(13));
        drop(call);
        drop(figures.begin("/runtime.v1alpha2.RuntimeService/ExecSync"));
        let _going = figures.begin("/runtime.v1.RuntimeService/GetContainerEvents");
        for path in ["/runtime.v1alpha2.RuntimeService/RuntimeConfig", "/x", "", "/a\"b/c"] {
            figures.begin(path).heard(&status(12));
        }
        let lines = written(&figures);
        let has = |line: &str| assert!(lines.iter().any(|one| one == line), "{line}: {lines:#?}");
        let all = "grpc_type=\"unary\",grpc_service=\"runtime.v1.RuntimeService\",\
                   grpc_method=\"ExecSync\"";
        has(&format!("grpc_server_started_total{{{all}}} 2"));
        has(&format!("grpc_server_handled_total{{{all},grpc_code=\"DeadlineExceeded\"}} 1"));
        has(&format!("grpc_server_handled_total{{{all},grpc_code=\"OK\"}} 1"));
        let old = all.replace("v1", "v1alpha2");
        has(&format!("grpc_server_handled_total{{{old},grpc_code=\"Canceled\"}} 1"));
        let unknown = "grpc_service=\"unknown\",grpc_method=\"unknown\"";
        has(&format!(
            "grpc_server_handled_total{{grpc_type=\"unary\",{unknown},grpc_code=\"Unimplemented\"}} 4"
        ));
        let events =
            "grpc_service=\"runtime.v1.RuntimeService\",grpc_method=\"GetContainerEvents\"";
        has(&format!("corten_rpc_in_flight{{{events}}} 1"));
        has(&format!("corten_rpc_duration_seconds_count{{{events}}} 0"));
        has(&format!("corten_rpc_in_flight{{{unknown}}} 0"));
        has(&format!("corten_rpc_duration_seconds_bucket{{{unknown},le=\"+Inf\"}} 4"));
    }
}
