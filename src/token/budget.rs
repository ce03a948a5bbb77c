use std::time::Duration;

use tokio::time::Instant;

/// How often something is allowed: `burst` times at once, then once more every `per`.
///
/// In any 24 hours that is at most `burst` plus as many times as `per` goes into a day.
///
/// ```
/// use std::time::Duration;
/// use tower_wechat::RateLimit;
///
/// let limit = RateLimit::new(6, Duration::from_secs(2 * 60 * 60));
/// assert_eq!(limit.burst(), 6);
/// assert_eq!(limit.per(), Duration::from_secs(7200));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    burst: u32,
    per: Duration,
}

impl RateLimit {
    /// `burst` times at once, then once more every `per`.
    ///
    /// A `burst` of 0 allows nothing; a `per` of zero allows everything else.
    pub const fn new(burst: u32, per: Duration) -> Self {
        RateLimit { burst, per }
    }

    /// How many times at once.
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// The time after which it is allowed once more.
    pub const fn per(self) -> Duration {
        self.per
    }
}

/// A token bucket: `burst` at once, then one more every `per`.
#[derive(Debug)]
pub(crate) struct Budget {
    burst: u32,
    per: Duration,
    left: u32,
    /// Since when the next unit has been growing; of no meaning while the bucket is full.
    growing_since: Instant,
}

impl Budget {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let RateLimit { burst, per } = limit;
        Budget {
            burst,
            per,
            left: burst,
            growing_since: Instant::now(),
        }
    }

    /// How many units there are.
    pub(crate) fn left(&mut self, now: Instant) -> u32 {
        self.grow(now);
        self.left
    }

    /// Takes one unit, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.left(now) == 0 {
            return false;
        }
        if self.left == self.burst {
            self.growing_since = now;
        }
        self.left -= 1;
        true
    }

    /// Gives back one that was taken for nothing.
    pub(crate) fn give_back(&mut self) {
        self.left = self.burst.min(self.left + 1);
    }

    fn grow(&mut self, now: Instant) {
        let grown = now.saturating_duration_since(self.growing_since);
        let units = match self.per.as_nanos() {
            0 => u128::from(self.burst),
            per => grown.as_nanos() / per,
        };
        let missing = self.burst - self.left;
        match u32::try_from(units) {
            Ok(units) if units < missing => {
                self.left += units;
                self.growing_since += self.per * units;
            }
            _ => self.left = self.burst,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_each_period() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut budget = Budget::new(RateLimit::new(2, Duration::from_secs(60)));
        assert!(budget.take(at(0)));
        assert!(budget.take(at(1)));
        assert!(!budget.take(at(59)));
        assert!(budget.take(at(60)));
        assert!(!budget.take(at(119)));
        assert!(budget.take(at(120)));
        // A long rest fills it to the brim and no further.
        assert!(budget.take(at(100_000)));
        assert!(budget.take(at(100_000)));
        assert!(!budget.take(at(100_059)));
        assert!(budget.take(at(100_060)));
    }

    #[test]
    fn a_burst_of_none_never_allows_and_a_period_of_none_always_does() {
        let now = Instant::now();
        assert!(
            !Budget::new(RateLimit::new(0, Duration::from_secs(1)))
                .take(now + Duration::from_secs(1000))
        );
        let mut endless = Budget::new(RateLimit::new(1, Duration::ZERO));
        assert!((0..100).all(|_| endless.take(now)));
    }
}
