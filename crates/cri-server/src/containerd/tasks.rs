//! Tasks/Get, of containerd's interface.

use cri_proto::containerd::{
    services::tasks::v1::{GetRequest, GetResponse, tasks_server::Tasks},
    v1::types::{Process, Status as TaskStatus},
};
use pods::{ContainerRecord, ContainerState, Known, SandboxRecord};
use tonic::{Request, Response, Status, async_trait};

use super::{NAMESPACE, is_ours, timestamp};
use crate::service::{Server, traced};

#[async_trait]
impl Tasks for Server {
    /// The first process of a container, or of a sandbox. cAdvisor asks again for a while where
    /// it is not there yet.
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        traced("containerd.Tasks.Get", async {
            let ours = is_ours(request.metadata())?;
            let GetRequest { container_id: id, exec_id } = request.into_inner();
            self.gate.pass().await?;
            let process = match self.pods.known(&id).filter(|_| ours) {
                Some(Known::Sandbox(record)) => of_sandbox(&record),
                Some(Known::Container(record, _)) => of_container(&record),
                None => {
                    return Err(Status::not_found(format!(
                        "container {id:?} in namespace {NAMESPACE:?}: not found"
                    )));
                }
            };
            if !exec_id.is_empty() {
                let text = format!("process {exec_id} of task {id}: not found");
                return Err(Status::not_found(text));
            }
            let process =
                process.ok_or_else(|| Status::not_found(format!("task {id} not found")))?;
            Ok(GetResponse { process: Some(process) })
        })
        .await
    }
}

fn of_sandbox(record: &SandboxRecord) -> Option<Process> {
    let pid = record.live_process()?;
    Some(Process {
        container_id: record.id.to_string(),
        id: record.id.to_string(),
        pid: u32::try_from(pid).ok()?,
        status: TaskStatus::Running.into(),
        ..Process::default()
    })
}

fn of_container(record: &ContainerRecord) -> Option<Process> {
    let process = Process {
        container_id: record.id.to_string(),
        id: record.id.to_string(),
        terminal: record.config.tty,
        ..Process::default()
    };
    match &record.state {
        // It has no process whose number is known.
        ContainerState::Created | ContainerState::Starting | ContainerState::Unknown => None,
        ContainerState::Running { pid } => Some(Process {
            pid: u32::try_from(*pid).ok()?,
            status: TaskStatus::Running.into(),
            ..process
        }),
        // Its process' number may be another's by now.
        ContainerState::Exited(exit) => Some(Process {
            status: TaskStatus::Stopped.into(),
            exit_status: u32::try_from(exit.code).unwrap_or(u32::MAX),
            exited_at: Some(timestamp(exit.finished_at_ns)),
            ..process
        }),
    }
}
