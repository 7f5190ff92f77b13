//! What this process knows of running planes: where each is reached, when it was needed last, how many requests are in
//! flight. Only memory: after a restart the reconciler fills it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use contract::ids::OrganizationId;
use contract::names::OrganizationName;
use tokio::sync::{mpsc, watch};

/// Where a running plane is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The organization's name, which the gateway's addresses carry.
    pub name: OrganizationName,
    /// The plane's own address.
    pub url: String,
}

#[derive(Default)]
struct Use {
    last: Option<DateTime<Utc>>,
    in_flight: usize,
}

struct Live {
    route: watch::Sender<Option<Route>>,
    used: Use,
}

/// The running planes, and the way to make the reconciler look.
pub struct Planes {
    lives: Mutex<HashMap<OrganizationId, Live>>,
    signals: mpsc::UnboundedSender<OrganizationId>,
}

/// A request that is in flight; the plane does not fall asleep under it.
pub struct InFlight {
    planes: Arc<Planes>,
    organization: OrganizationId,
    now: Box<dyn Fn() -> DateTime<Utc> + Send + Sync>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = (self.now)();
        self.planes.with(self.organization, |live| {
            live.used.in_flight = live.used.in_flight.saturating_sub(1);
            live.used.last = Some(now);
        });
    }
}

impl Planes {
    /// Knows of none yet. The receiver goes to the reconciler.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<OrganizationId>) {
        let (signals, receiver) = mpsc::unbounded_channel();
        let planes = Self {
            lives: Mutex::default(),
            signals,
        };
        (planes, receiver)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<OrganizationId, Live>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, organization: OrganizationId, change: impl FnOnce(&mut Live) -> T) -> T {
        let mut table = self.table();
        change(table.entry(organization).or_insert_with(|| Live {
            route: watch::channel(None).0,
            used: Use::default(),
        }))
    }

    /// Asks the reconciler to look at that plane soon. It takes no other input.
    pub fn signal(&self, organization: OrganizationId) {
        // Without a reconciler (migrations, some tests) nobody listens.
        let _ = self.signals.send(organization);
    }

    /// Where the plane is, if it runs.
    pub fn route(&self, organization: OrganizationId) -> Option<Route> {
        self.table()
            .get(&organization)
            .and_then(|live| live.route.borrow().clone())
    }

    /// Whether it runs.
    pub fn is_running(&self, organization: OrganizationId) -> bool {
        self.route(organization).is_some()
    }

    /// Says where it is, or that it runs no more.
    pub fn set_route(&self, organization: OrganizationId, route: Option<Route>) {
        self.with(organization, |live| {
            live.route.send_if_modified(|known| {
                let changed = *known != route;
                *known = route;
                changed
            });
        });
    }

    /// Takes over what another process knows: these planes run, and no others.
    pub fn follow(&self, routes: HashMap<OrganizationId, Route>) {
        let known: Vec<OrganizationId> = self.table().keys().copied().collect();
        for organization in known.into_iter().filter(|id| !routes.contains_key(id)) {
            self.forget_route(organization);
        }
        for (organization, route) in routes {
            self.set_route(organization, Some(route));
        }
    }

    /// No request goes there any more.
    pub fn forget_route(&self, organization: OrganizationId) {
        self.set_route(organization, None);
    }

    /// Waits until it runs.
    pub async fn wait_for_route(&self, organization: OrganizationId, limit: Duration) -> Option<Route> {
        let mut routes = self.with(organization, |live| live.route.subscribe());
        let found = tokio::time::timeout(limit, routes.wait_for(Option::is_some)).await;
        found.ok()?.ok()?.clone()
    }

    /// Notes that somebody needs it.
    pub fn note_use(&self, organization: OrganizationId, now: DateTime<Utc>) {
        self.with(organization, |live| live.used.last = Some(now));
    }

    /// Counts a request until the answer is dropped.
    pub fn hold(
        self: &Arc<Self>,
        organization: OrganizationId,
        now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static,
    ) -> InFlight {
        self.with(organization, |live| live.used.in_flight += 1);
        InFlight {
            planes: Arc::clone(self),
            organization,
            now: Box::new(now),
        }
    }

    /// Whether nobody needed it for that long.
    pub fn is_unused(&self, organization: OrganizationId, limit: chrono::Duration, now: DateTime<Utc>) -> bool {
        self.with(organization, |live| unused(&live.used, limit, now))
    }

    /// Takes the route away unless somebody came in between; from then on who needs the plane waits for a new one.
    pub fn retire(&self, organization: OrganizationId, limit: chrono::Duration, now: DateTime<Utc>) -> bool {
        self.with(organization, |live| {
            let retired = unused(&live.used, limit, now);
            if retired {
                live.route.send_replace(None);
            }
            retired
        })
    }
}

fn unused(used: &Use, limit: chrono::Duration, now: DateTime<Utc>) -> bool {
    used.in_flight == 0 && used.last.is_none_or(|at| now - at >= limit)
}
