//! A transport over channels: the replica lives in a task of its own.

use std::sync::Arc;

use async_trait::async_trait;
use kvquorum_core::{Replica, Request, Response, Store, StoreError, Transport, TransportError};
use tokio::sync::{mpsc, oneshot};

/// How many calls may wait for the task at once.
pub(crate) const QUEUE: usize = 256;

/// A request on its way, and where its answer goes.
type Call = (Request, oneshot::Sender<Result<Response, StoreError>>);

/// A link to a replica in another task.
pub(crate) struct ChannelTransport {
    name: String,
    calls: mpsc::Sender<Call>,
}

impl ChannelTransport {
    /// A link to a replica, and the replica's part, to be spawned. It ends when
    /// the link is dropped.
    pub(crate) fn new<S: Store>(
        name: &str,
        replica: Replica<S>,
    ) -> (Self, impl Future<Output = ()> + Send + use<S>) {
        let (calls, mut incoming) = mpsc::channel::<Call>(QUEUE);
        let replica = Arc::new(replica);
        let serve = async move {
            while let Some((request, answer)) = incoming.recv().await {
                // A task for each call: none waits for another's store.
                let replica = Arc::clone(&replica);
                tokio::spawn(async move {
                    // A caller that has left wants no answer.
                    let _ = answer.send(replica.handle(request).await);
                });
            }
        };
        let name = name.to_owned();
        (Self { name, calls }, serve)
    }
}

#[async_trait]
impl Transport for ChannelTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let (answer, answered) = oneshot::channel();
        // A full queue fails the call. To wait for a place would be to hold
        // one, once it is granted, for as long as the caller does not poll this
        // call; and all other calls would wait behind it.
        let queued = self.calls.try_send((request, answer));
        // Not sent: the coordinator may say that nothing was stored there.
        queued.map_err(|error| TransportError::NotSent(error.to_string().into()))?;
        // From here on the replica may act, whether or not an answer comes.
        let answer = answered.await;
        let answer = answer.map_err(|lost| TransportError::NoAnswer(lost.into()))?;
        Ok(answer?)
    }

    fn name(&self) -> &str {
        &self.name
    }
}
