//! The way of a call to its replica: alone, or in one exchange with others.

use std::sync::Arc;

use kvquorum_core::{Request, TransportError};

use crate::error::HttpError;
use crate::failure::{Called, Failure};
use crate::frames::Frames;
use crate::gather::Lead;
use crate::gatherer::Gatherer;
use crate::link::Link;
use crate::wire::EncodeError;

pub(crate) async fn call(link: &Arc<Link>, request: &Request) -> Called {
    // In boxes, so that the future of a call that gathers is a small one.
    if !link.gathering.takes(request) {
        return Box::pin(call_alone(link, request, None)).await;
    }
    match link.gathering.lead() {
        Some(lead) => Box::pin(call_alone(link, request, Some(lead))).await,
        None => call_together(link, request).await,
    }
}

/// A call in an exchange of its own. `lead` is let go when the answer begins.
async fn call_alone(link: &Link, request: &Request, lead: Option<Lead<'_>>) -> Called {
    // First, so that a call that waits holds its request once.
    let _turn = link.turns.acquire().await;
    let frame = Frames::of_request(request).map_err(not_encoded)?;
    let exchange = link.begin(|| frame.clone()).await;
    drop(lead);
    let mut exchange = exchange?;
    let called = match exchange.next().await {
        Ok(Some((0, called))) => called,
        Ok(Some(_)) => return Err(Failure::Unframed.into()),
        Ok(None) => Err(Failure::Unanswered.into()),
        Err(failure) => Err(failure.into()),
    };
    link.end(&mut exchange).await;
    called
}

/// A call in an exchange with others.
async fn call_together(link: &Arc<Link>, request: &Request) -> Called {
    let call = link.gathering.join(request).await.map_err(not_encoded)?;
    if call.needs_gatherer {
        tokio::spawn(Gatherer::new(Arc::clone(link)).run());
    }
    call.called().await
}

fn not_encoded(error: EncodeError) -> TransportError {
    TransportError::NotSent(HttpError::Encode(error).into())
}
