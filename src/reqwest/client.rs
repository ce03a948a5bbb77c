//! A client that keeps the token to itself.

use std::time::Duration;

use super::reqwest::{Client, ClientBuilder};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Also the longest time from the first byte sent to the reply's head: an upload of 10 MB, WeChat's
/// largest, takes less on any line that a server has.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A builder for a client that suits WeChat: timeouts are set, and no `Referer` is sent.
///
/// Ten seconds to connect, and sixty without a byte; there is none for the whole, which a large
/// download may need long for. TLS is what your own dependency on reqwest has, or this crate's
/// feature `rustls`. A client of your own does as well: see that it has timeouts, for reqwest sets
/// none, and turn `Referer` off, or a redirect takes the URL, and the token in it, to another host.
pub fn client_builder() -> ClientBuilder {
    Client::builder()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
}
