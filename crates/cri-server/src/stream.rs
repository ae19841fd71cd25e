//! Lists in messages of a bounded size, for the calls that stream them.

use prost::Message;
use tonic::{Status, codegen::BoxStream};

/// How large a message gets, unless one item alone is larger: far below the largest that the
/// kubelet takes.
const MESSAGE_BYTES: usize = 1 << 20;

/// The items in messages that each have one at least; no items are no message.
pub(crate) fn batches<T, M>(items: Vec<T>, message: impl Fn(Vec<T>) -> M) -> BoxStream<M>
where
    T: Message,
    M: Send + 'static,
{
    let messages: Vec<Result<M, Status>> =
        split(items).into_iter().map(|batch| Ok(message(batch))).collect();
    Box::pin(tokio_stream::iter(messages))
}

fn split<T: Message>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut bytes = usize::MAX;
    for item in items {
        let length = item.encoded_len();
        bytes = bytes.saturating_add(length);
        match batches.last_mut().filter(|_| bytes <= MESSAGE_BYTES) {
            Some(batch) => batch.push(item),
            None => {
                batches.push(vec![item]);
                bytes = length;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use cri_proto::v1::Container;

    use super::*;

    #[test]
    fn messages_are_bounded_and_whole() {
        let of = |size: usize| Container { id: "x".repeat(size), ..Container::default() };
        let sizes = |sizes: &[usize]| {
            let batches = split(sizes.iter().map(|size| of(*size)).collect());
            batches.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 1000]), [1000]);
        assert_eq!(sizes(&[400_000; 5]), [2, 2, 1]);
        assert_eq!(sizes(&[1, 2_000_000, 1, 1]), [1, 1, 2]);
    }
}
