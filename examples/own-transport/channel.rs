//! A transport over channels: the replica lives in a task of its own.

use kvquorum_core::{Call, Replica, Request, Response, Store, Transport, TransportError};
use tokio::sync::{mpsc, oneshot};

/// How many calls may wait for the task at once.
pub(crate) const QUEUE: usize = 256;

/// A request on its way, and where its answer goes.
type Sent = (Request, oneshot::Sender<Result<Response, TransportError>>);

/// A link to a replica in another task.
pub(crate) struct ChannelTransport {
    name: String,
    calls: mpsc::Sender<Sent>,
}

impl ChannelTransport {
    /// A link to a replica, and the replica's part, to be spawned. It ends when
    /// the link is dropped.
    pub(crate) fn new<S: Store>(
        name: &str,
        replica: Replica<S>,
    ) -> (Self, impl Future<Output = ()> + Send + use<S>) {
        let (calls, mut incoming) = mpsc::channel::<Sent>(QUEUE);
        let serve = async move {
            while let Some((request, answer)) = incoming.recv().await {
                // A task for each call: none waits for another's store.
                let replica = replica.clone();
                tokio::spawn(async move {
                    // A caller that has left wants no answer.
                    let _ = answer.send(replica.call(&request).await);
                });
            }
        };
        let name = name.to_owned();
        (Self { name, calls }, serve)
    }
}

impl Transport for ChannelTransport {
    fn call(&self, request: &Request) -> Call {
        let (answer, answered) = oneshot::channel();
        // A full queue fails the call. To wait for a place would be to hold
        // one, once it is granted, for as long as the caller does not poll this
        // call; and all other calls would wait behind it.
        if let Err(error) = self.calls.try_send((request.clone(), answer)) {
            // Not sent: the coordinator may say that nothing was stored there.
            return Call::Ready(Err(TransportError::NotSent(error.to_string().into())));
        }
        // From here on the replica may act, whether or not an answer comes.
        Call::new(async move {
            let answer = answered.await;
            answer.unwrap_or_else(|lost| Err(TransportError::NoAnswer(lost.into())))
        })
    }

    fn name(&self) -> &str {
        &self.name
    }
}
