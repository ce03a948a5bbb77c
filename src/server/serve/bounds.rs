//! How much one server takes on, and how long it waits for others.

use std::time::Duration;

/// What a peer must send of a body, or take of a reply, in the time that it has: less than that is
/// a way to hold a connection.
pub(super) const PACE: usize = 16 * 1024;

/// Longer than any process lives: with more, the time would end before.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The bounds of [`serve`](super::serve()), each with a default that suits a server whom strangers
/// can reach.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::server::Bounds;
///
/// let bounds = Bounds::default()
///     .connections(500)
///     .idle_timeout(Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Bounds {
    pub(super) connections: usize,
    pub(super) connections_by_address: Option<usize>,
    pub(super) patience: Duration,
    pub(super) head_timeout: Duration,
    pub(super) head_bytes: usize,
    pub(super) head_fields: Option<usize>,
    pub(super) body_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) keep_alive: bool,
    pub(super) idle_timeout: Duration,
    pub(super) requests: Option<u32>,
    pub(super) age: Option<Duration>,
    pub(super) drained_bytes: u64,
    pub(super) drain_timeout: Duration,
    pub(super) linger_timeout: Duration,
    pub(super) stop_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections: 2048,
            connections_by_address: None,
            patience: Duration::from_millis(250),
            head_timeout: Duration::from_secs(10),
            head_bytes: 64 * 1024,
            head_fields: None,
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            keep_alive: true,
            idle_timeout: Duration::from_secs(100),
            requests: None,
            age: None,
            drained_bytes: 16 * 1024 * 1024,
            drain_timeout: Duration::from_secs(5),
            linger_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(25),
        }
    }
}

impl Bounds {
    /// How many connections there may be; default 2048, at least 1.
    ///
    /// That is twice the calls that a gateway takes on at a time, so that whoever comes with one
    /// more still reads its refusal. Past it a new connection takes the place of one that nobody
    /// needs: of the one that has been idle longest, else of the one whose peer has owed something
    /// (a head, a body, room for a reply) longest, and for longer than
    /// [`patience`](Bounds::patience). If there is none, it waits.
    ///
    /// Each connection is an open file, and each call at a gateway is another one: the process must
    /// be allowed both.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// How many of them may come from one address, an IPv6 network of 64 bits counting as one;
    /// default: as many as from all.
    ///
    /// Right only if the peer's address is the client's: behind a balancer, a proxy or Docker's
    /// own, all have the same. Past it a new connection takes the place of one of the same
    /// address', as above, or is closed.
    pub fn connections_by_address(mut self, connections: usize) -> Self {
        self.connections_by_address = Some(connections.max(1));
        self
    }

    /// How long a peer may owe a head while others want its place; default 250 ms. In a call, whose
    /// body or reply may be held up by a lost packet, ten times that.
    ///
    /// A client sends its head at once. Strangers who say nothing keep others waiting only if
    /// within this time there come as many as there are connections.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(NEVER);
        self
    }

    /// How long the head of a request may take, from the connection or from its first byte; default
    /// 10 s.
    ///
    /// It fits into a few packets. That it comes byte by byte makes its time no longer.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout.min(NEVER);
        self
    }

    /// How many bytes the head of a request may have; default 64 KiB, at least 8 KiB. Past it:
    /// status 431.
    ///
    /// Twice what a gateway takes, whose refusal says more.
    pub fn head_bytes(mut self, bytes: usize) -> Self {
        self.head_bytes = bytes.max(8 * 1024);
        self
    }

    /// How many fields the head of a request may have; default 100. Past it: status 431.
    ///
    /// Any other number costs an allocation for each request.
    pub fn head_fields(mut self, fields: usize) -> Self {
        self.head_fields = Some(fields);
        self
    }

    /// How long 16 KiB of a request's body, or what is left of it, may take to come; default 60 s.
    ///
    /// Only time counts in which somebody waits for it. A gateway's own
    /// [`body_pause`](crate::server::ServerBuilder::body_pause) is shorter and answers with 408;
    /// this one is for a body that comes byte by byte.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout.min(NEVER);
        self
    }

    /// How long a peer may take to make room for 16 KiB of a reply, or what is left of it; default
    /// 30 s. Past it the connection is cut.
    ///
    /// As long as a gateway waits for WeChat to go on.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout.min(NEVER);
        self
    }

    /// Whether a connection is kept for the next request; default true.
    pub fn keep_alive(mut self, keep: bool) -> Self {
        self.keep_alive = keep;
        self
    }

    /// How long a connection is kept without a request; default 100 s.
    ///
    /// Longer than clients keep theirs, 90 s with Go and reqwest: whoever closes first must be the
    /// one that sends next, or it sends into a connection that is gone.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.min(NEVER);
        self
    }

    /// After how many requests a connection is closed; default: never.
    pub fn requests_by_connection(mut self, requests: u32) -> Self {
        self.requests = Some(requests);
        self
    }

    /// How old a connection may become; default: as old as it likes. The reply to the first request
    /// after that closes it.
    ///
    /// Behind a balancer that spreads connections, a server that has just joined gets its share
    /// only as old ones end.
    pub fn connection_age(mut self, age: Duration) -> Self {
        self.age = Some(age.min(NEVER));
        self
    }

    /// How much of a body that was refused is read and thrown away, so that the connection can be
    /// kept, and for how long the refusal waits for that; default 16 MiB and 5 s.
    ///
    /// Many clients send all of a request before they read: a connection closed meanwhile is a
    /// broken pipe to them, in place of the reply. Past the bounds the reply says `Connection:
    /// close`.
    pub fn drained(mut self, bytes: u64, timeout: Duration) -> Self {
        (self.drained_bytes, self.drain_timeout) = (bytes, timeout.min(NEVER));
        self
    }

    /// How long a connection that ends by a reply is read from after that, while its peer still
    /// sends; default 30 s.
    ///
    /// What comes when nobody reads any more is answered by a reset, which takes the reply away
    /// from its reader.
    pub fn linger_timeout(mut self, timeout: Duration) -> Self {
        self.linger_timeout = timeout.min(NEVER);
        self
    }

    /// How long calls that are under way when the server is to stop may take; default 25 s. Past it
    /// they are cut.
    ///
    /// Docker kills after 10 s unless it is configured, Kubernetes after 30.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout.min(NEVER);
        self
    }
}
