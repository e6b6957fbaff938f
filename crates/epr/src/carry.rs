//! Work that is done to its end once it is begun.

use std::future::Future;

use runtime::Context;
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::error::Error;

/// Does the work also when the caller does not wait for it: else what is committed might not be announced. The service
/// waits for it when it stops.
pub(crate) async fn carry_through<T: Send + 'static>(
    context: &Context,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    context.task(
        async move {
            // A caller who has gone finds out by asking again.
            drop(sender.send(work.await));
        }
        .in_current_span(),
    );
    receiver.await.unwrap_or(Err(Error::Stopping))
}
