//! Which calls are rejected whatever the token (M9).
//!
//! WeChat rejects a good token if, say, the body of the call holds `&access_token=`. A refresh does
//! not cure that. A method and path whose rejections turned out to be such cause no refresh for a
//! while, so that they cannot use up the refreshes that a really dead token needs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::AccessToken;

/// How long a mark lasts at first. It doubles with every futile refresh.
const FIRST_MARK: Duration = Duration::from_secs(60);
const LONGEST_MARK: Duration = Duration::from_secs(60 * 60);

/// After so long without another futile refresh the path is as any other.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The names of paths are somebody else's to choose.
const MOST_MARKS: usize = 256;
const LONGEST_PATH: usize = 128;

/// How many rejections wait for evidence, and for how long.
const MOST_OPEN: usize = 64;
const OPEN_FOR: Duration = Duration::from_secs(60);

/// The method and path of a call, as one text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint(Arc<str>);

impl Endpoint {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let mut end = LONGEST_PATH.min(path.len());
        while !path.is_char_boundary(end) {
            end -= 1;
        }
        Endpoint(format!("{method} {}", &path[..end]).into())
    }
}

/// How much a rejection at an endpoint says about the token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// As much as any.
    #[default]
    Plain,
    /// Little: refreshes because of this endpoint were futile before, or nobody knows what they
    /// were.
    Suspect,
    /// Nothing for now.
    Marked,
}

/// The endpoints of one handle whose rejections were futile.
#[derive(Debug, Default)]
pub(super) struct Marks {
    table: Mutex<HashMap<Endpoint, Mark>>,
}

#[derive(Debug)]
struct Mark {
    /// How many futile refreshes it is for; none where it is not known what became of one.
    times: u32,
    at: Instant,
    until: Instant,
}

impl Marks {
    pub(super) fn standing(&self, endpoint: &Endpoint, now: Instant) -> Standing {
        match lock(&self.table).get(endpoint) {
            Some(mark) if now < mark.until => Standing::Marked,
            Some(mark) if now < mark.at + FORGOTTEN_AFTER => Standing::Suspect,
            _ => Standing::Plain,
        }
    }

    /// It is not known whether `endpoint` is as any other: a refresh takes off because of it, and
    /// its call may never say whether that was right, as it may be given up, or its body not kept.
    /// Till then the endpoint leaves the reserve to others.
    pub(super) fn suspect(&self, endpoint: &Endpoint, now: Instant) {
        let mut table = lock(&self.table);
        let mark = mark_of(&mut table, endpoint, now);
        if mark.times == 0 || now >= mark.at + FORGOTTEN_AFTER {
            (mark.times, mark.at) = (0, now);
        }
    }

    /// The refresh has cost nothing, so nothing is to be learned from it.
    pub(super) fn cost_nothing(&self, endpoint: &Endpoint) {
        let mut table = lock(&self.table);
        if table.get(endpoint).is_some_and(|mark| mark.times == 0) {
            table.remove(endpoint);
        }
    }

    /// A refresh because of `endpoint` was futile.
    pub(super) fn futile(&self, endpoint: &Endpoint, now: Instant) {
        let mut table = lock(&self.table);
        let mark = mark_of(&mut table, endpoint, now);
        // Many calls find out at once that one and the same refresh was futile.
        if mark.times > 0 && now < mark.until {
            return;
        }
        if now >= mark.at + FORGOTTEN_AFTER {
            mark.times = 0;
        }
        let life = FIRST_MARK.saturating_mul(1 << mark.times.min(16));
        mark.times = mark.times.saturating_add(1);
        mark.at = now;
        mark.until = now + life.min(LONGEST_MARK);
    }

    /// A call of `endpoint` was accepted with the new token.
    pub(super) fn useful(&self, endpoint: &Endpoint) {
        lock(&self.table).remove(endpoint);
    }
}

/// The mark of `endpoint`, or a new one; the oldest other goes for it where there are too many.
fn mark_of<'a>(
    table: &'a mut HashMap<Endpoint, Mark>,
    endpoint: &Endpoint,
    now: Instant,
) -> &'a mut Mark {
    if table.len() >= MOST_MARKS && !table.contains_key(endpoint) {
        let oldest = table.iter().min_by_key(|(_, mark)| mark.at);
        if let Some(oldest) = oldest.map(|(endpoint, _)| endpoint.clone()) {
            table.remove(&oldest);
        }
    }
    table.entry(endpoint.clone()).or_insert(Mark {
        times: 0,
        at: now,
        until: now,
    })
}

/// Rejections of the current token that a later acceptance of it may prove wrong.
#[derive(Default)]
pub(super) struct Open {
    entries: VecDeque<Entry>,
}

struct Entry {
    token: AccessToken,
    endpoint: Endpoint,
    marks: Arc<Marks>,
    /// How many rejections had been received with this one.
    number: u64,
    at: Instant,
}

impl Open {
    pub(super) fn add(
        &mut self,
        token: &AccessToken,
        endpoint: &Endpoint,
        marks: &Arc<Marks>,
        number: u64,
        now: Instant,
    ) {
        self.forget(now);
        if self.entries.len() >= MOST_OPEN {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            token: token.clone(),
            endpoint: endpoint.clone(),
            marks: Arc::clone(marks),
            number,
            at: now,
        });
    }

    /// `token` was accepted for a call that was sent when `sent_after` rejections had been
    /// received.
    pub(super) fn accepted(&mut self, token: &AccessToken, sent_after: u64, now: Instant) {
        self.forget(now);
        self.entries.retain(|entry| {
            // One that came in after the call was sent is no older than the acceptance.
            let refuted = entry.number <= sent_after && entry.token == *token;
            if refuted {
                entry.marks.futile(&entry.endpoint, now);
            }
            !refuted
        });
    }

    /// The refresh because of `endpoint` was right: its rejections say what was so, whoever else
    /// was accepted.
    pub(super) fn useful(&mut self, endpoint: &Endpoint, marks: &Arc<Marks>) {
        self.entries
            .retain(|entry| entry.endpoint != *endpoint || !Arc::ptr_eq(&entry.marks, marks));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget(&mut self, now: Instant) {
        self.entries.retain(|entry| now < entry.at + OPEN_FOR);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(path: &str) -> Endpoint {
        Endpoint::new("POST", path)
    }

    #[test]
    fn m9_the_table_is_bounded_and_forgets_what_was_futile_longest_ago() {
        let marks = Marks::default();
        let start = Instant::now();
        for number in 0..2 * MOST_MARKS as u64 {
            let path = format!("/cgi-bin/{number}");
            marks.futile(&endpoint(&path), start + Duration::from_millis(number));
        }
        assert_eq!(lock(&marks.table).len(), MOST_MARKS);
        let standing = |path| marks.standing(&endpoint(path), start + Duration::from_secs(1));
        assert_eq!(standing("/cgi-bin/0"), Standing::Plain);
        assert_eq!(standing("/cgi-bin/511"), Standing::Marked);
    }

    #[test]
    fn m9_however_long_a_path_is_little_is_kept_of_it() {
        let long = "/\u{e9}".repeat(10_000);
        assert!(endpoint(&long).0.len() <= LONGEST_PATH + 5);
    }

    #[test]
    fn m9_a_path_that_was_futile_a_day_ago_is_as_any_other() {
        let marks = Marks::default();
        let start = Instant::now();
        marks.futile(&endpoint("/a"), start);
        let after = |seconds| marks.standing(&endpoint("/a"), start + Duration::from_secs(seconds));
        assert_eq!(after(59), Standing::Marked);
        assert_eq!(after(60), Standing::Suspect);
        assert_eq!(after(24 * 60 * 60), Standing::Plain);
    }

    #[test]
    fn m9_rejections_that_wait_for_evidence_are_bounded_in_number_and_time() {
        let mut open = Open::default();
        let marks = Arc::default();
        let token = AccessToken::new("t", Duration::from_secs(7200));
        let start = Instant::now();
        for number in 0..1000 {
            open.add(&token, &endpoint("/a"), &marks, number, start);
        }
        assert_eq!(open.entries.len(), MOST_OPEN);
        open.accepted(&token, 0, start + OPEN_FOR);
        assert!(open.is_empty());
        assert_eq!(marks.standing(&endpoint("/a"), start), Standing::Plain);
    }
}
