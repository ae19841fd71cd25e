//! GetContainerEvents.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use cri_proto::v1;
use pods::{EventFeed, EventKind, PodEvent};
use tokio_stream::Stream;
use tonic::{Status, codegen::BoxStream};
use tracing::{Span, warn};

use crate::{convert, error::status, service::Server};

impl Server {
    /// What happens to containers and sandboxes from now on, each with the statuses of its whole
    /// pod. The stream ends when the daemon does.
    pub(crate) async fn on_get_container_events(
        &self,
        request: v1::GetEventsRequest,
    ) -> Result<BoxStream<v1::ContainerEventResponse>, Status> {
        let v1::GetEventsRequest {} = request;
        let feed = self.pods.listen().map_err(|e| status(&e))?;
        Ok(Box::pin(Events { feed, call: Span::current() }))
    }
}

/// A client's events.
struct Events {
    feed: EventFeed,
    call: Span,
}

impl Stream for Events {
    type Item = Result<v1::ContainerEventResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.feed.poll_next(cx));
        Poll::Ready(next.map(|next| match next {
            Ok(event) => Ok(event_out(&event)),
            Err(error) => {
                let status = status(&error);
                let _call = self.call.enter();
                warn!(code = ?status.code(), "{}", status.message());
                Err(status)
            }
        }))
    }
}

fn event_out(event: &PodEvent) -> v1::ContainerEventResponse {
    let PodEvent { id, kind, at_ns, sandbox, containers } = event;
    v1::ContainerEventResponse {
        container_id: id.clone(),
        container_event_type: match kind {
            EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
            EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
            EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
            EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
        }
        .into(),
        created_at: *at_ns,
        pod_sandbox_status: Some(convert::sandbox_status(sandbox)),
        containers_statuses: containers.iter().map(|c| convert::container_status(c)).collect(),
    }
}
