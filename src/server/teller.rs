//! What became of the calls, in the metrics and the log.

use std::sync::Arc;

use axum::http::Uri;

use super::metrics;
use super::searched::{End, Unfit};
use crate::warnings::Seldom;

/// One kind of trouble hides no other.
#[derive(Default)]
pub(super) struct Warnings {
    pub(super) failing: Seldom,
    pub(super) timeout: Seldom,
    unfit: Seldom,
    telling: Seldom,
    pub(super) not_served: Seldom,
}

/// One call, as far as it is told of.
#[derive(Clone)]
pub(super) struct Teller {
    pub(super) warnings: Arc<Warnings>,
    pub(super) client: Arc<str>,
    pub(super) account: Arc<str>,
    pub(super) sent_to: Uri,
}

impl Teller {
    pub(super) fn count(&self, result: &'static str) {
        metrics::call(&self.client, &self.account, result);
    }

    pub(super) fn warn(&self, seldom: &Seldom, message: &str) {
        let (client, account, path) = (&*self.client, &*self.account, self.sent_to.path());
        if seldom.is_due() {
            tracing::warn!(client, account, path, "{message}");
        } else {
            tracing::debug!(client, account, path, "{message}");
        }
    }

    pub(super) fn unfit(&self, why: &Unfit) {
        self.count(why.kind());
        let seldom = match why {
            Unfit::Telling => &self.warnings.telling,
            _ => &self.warnings.unfit,
        };
        self.warn(seldom, &why.to_string());
    }

    pub(super) fn ended(&self, end: End<'_>) {
        match end {
            End::Whole => self.count("ok"),
            End::Unfit(why) => self.unfit(why),
            End::Left => self.count("abandoned"),
        }
    }
}
