//! A connection whose panic ends it alone.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::connection::Connection;

/// Tells its number when it has ended, however it did.
pub(super) struct Guarded {
    connection: Option<Connection>,
    number: u64,
}

impl Guarded {
    pub(super) fn new(connection: Connection, number: u64) -> Self {
        Guarded {
            connection: Some(connection),
            number,
        }
    }
}

impl Future for Guarded {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        if let Some(connection) = &mut self.connection {
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(connection).poll(cx)));
            match polled {
                Ok(polled) => ready!(polled),
                Err(_panic) => tracing::error!("a reply's body panicked; its connection is cut"),
            }
            let connection = self.connection.take();
            if catch_unwind(AssertUnwindSafe(|| drop(connection))).is_err() {
                tracing::error!("what a handler left behind panicked");
            }
        }
        Poll::Ready(self.number)
    }
}
