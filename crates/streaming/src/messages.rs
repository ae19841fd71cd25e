//! The messages of a WebSocket that are to be sent.

use futures_util::stream::SplitSink;
use futures_util::{Sink, SinkExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::task::Task;

/// How many messages wait for a WebSocket.
const QUEUE: usize = 16;

/// Writes messages from a queue, and says goodbye once nobody has any more. A peer that reads
/// nothing holds the task up; what drops it does not wait.
pub(crate) fn write<S>(mut sink: SplitSink<S, Message>) -> (mpsc::Sender<Message>, Task)
where
    S: Sink<Message> + Send + 'static,
{
    let (messages, mut queue) = mpsc::channel(QUEUE);
    let writing = Task::spawn(async move {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    });
    (messages, writing)
}
