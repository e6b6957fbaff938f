//! Functions as handlers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::{FromMessage, IntoReply, Message, Refusal, Reply};

pub(crate) type Answer = Result<Reply, Refusal>;
pub(crate) type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// An async function of an extension that answers messages: `async fn(self: Arc<Self>, ...) -> Result<R, Refusal>`,
/// where each argument implements [`FromMessage`] and `R` implements [`IntoReply`].
pub trait Handler<E, Arguments>: Send + Sync + 'static {
    /// Takes the arguments from the message and calls the function.
    fn call(&self, extension: Arc<E>, message: &Message) -> Answering;
}

fn refuse(refusal: Refusal) -> Answering {
    Box::pin(std::future::ready(Err(refusal)))
}

macro_rules! handler {
    ($($argument:ident),*) => {
        impl<E, F, Fut, R, $($argument),*> Handler<E, ($($argument,)*)> for F
        where
            F: Fn(Arc<E>, $($argument),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<R, Refusal>> + Send + 'static,
            R: IntoReply,
            $($argument: FromMessage,)*
        {
            #[allow(non_snake_case, reason = "the type's name stands for the argument")]
            fn call(&self, extension: Arc<E>, _message: &Message) -> Answering {
                $(
                    let $argument = match $argument::from_message(_message) {
                        Ok(argument) => argument,
                        Err(refusal) => return refuse(refusal),
                    };
                )*
                let answering = self(extension, $($argument),*);
                Box::pin(async move { answering.await?.into_reply() })
            }
        }
    };
}

handler!();
handler!(A);
handler!(A, B);
handler!(A, B, C);
handler!(A, B, C, D);
