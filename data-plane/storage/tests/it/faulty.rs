//! An object store in memory that fails when told: at one call, before or after it took effect, or all the time by chance: refusals,
//! lost answers, throttling, late answers, lists that are behind, a clock that is wrong.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use crate::samples::Chance;

/// What happens when the time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call is refused and does nothing; so is every later one about the same object.
    Refuse,
    /// The call takes effect, but its answer is lost.
    LoseAnswer,
    /// From this call on nothing answers any more, and nothing takes effect.
    Die,
    /// This call takes effect still, and from then on nothing answers any more.
    DieAfter,
    /// There is no space for this put, nor for later ones.
    Full,
}

/// What a call does to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Put,
    Delete,
    Read,
    List,
}

enum Trouble {
    /// Strikes at one call.
    At {
        calls_before: usize,
        fault: Fault,
        object: Option<Path>,
    },
    /// Strikes at any call.
    Weather(Weather),
    None,
}

struct Weather {
    chance: Chance,
    /// What lists need not show yet, and what they may show still.
    put: Vec<Path>,
    deleted: Vec<ObjectMeta>,
}

/// Lists are at most that many changes behind.
const BEHIND: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Before,
    After,
}

/// The store.
#[derive(Clone)]
pub struct Faulty(Arc<State>);

/// What all its calls share.
pub struct State {
    inner: Arc<InMemory>,
    trouble: Mutex<Trouble>,
    dead: AtomicBool,
    struck: AtomicUsize,
    gets: AtomicUsize,
    calls: AtomicUsize,
    /// Added to every time that the store tells, in seconds.
    skew: i64,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty store")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty store")
    }
}

impl Deref for Faulty {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl Faulty {
    fn over(inner: Arc<InMemory>, trouble: Trouble, skew: i64) -> Arc<Self> {
        Arc::new(Self(Arc::new(State {
            inner,
            trouble: Mutex::new(trouble),
            dead: AtomicBool::new(false),
            struck: AtomicUsize::new(0),
            gets: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            skew,
        })))
    }

    /// Strikes at the call after `calls_before` good ones. [`Fault::Full`] counts puts alone.
    pub fn after(inner: Arc<InMemory>, calls_before: usize, fault: Fault) -> Arc<Self> {
        let trouble = Trouble::At {
            calls_before,
            fault,
            object: None,
        };
        Self::over(inner, trouble, 0)
    }

    /// Strikes by chance, until [`Faulty::calm`]; its clock is `skew` seconds off.
    pub fn weather(seed: u64, skew: i64) -> Arc<Self> {
        let weather = Weather {
            chance: Chance::new(seed),
            put: Vec::new(),
            deleted: Vec::new(),
        };
        Self::over(Arc::new(InMemory::new()), Trouble::Weather(weather), skew)
    }

    /// Never fails.
    pub fn never() -> Arc<Self> {
        Self::over(Arc::new(InMemory::new()), Trouble::None, 0)
    }
}

impl State {
    /// From now on all is well.
    pub fn calm(&self) {
        *self.trouble.lock().unwrap() = Trouble::None;
    }

    /// How often it has struck.
    pub fn struck(&self) -> usize {
        self.struck.load(Ordering::SeqCst)
    }

    /// How often something was read since this was asked last.
    pub fn reads(&self) -> usize {
        self.gets.swap(0, Ordering::SeqCst)
    }

    /// How often it was asked for anything.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn error(&self) -> object_store::Error {
        let (full, throttled) = match &mut *self.trouble.lock().unwrap() {
            Trouble::At { fault, .. } => (*fault == Fault::Full, false),
            Trouble::Weather(weather) => (false, weather.chance.below(2) == 0),
            Trouble::None => (false, false),
        };
        let source: Box<dyn std::error::Error + Send + Sync> = if full {
            Box::new(io::Error::from(io::ErrorKind::StorageFull))
        } else if throttled {
            "503 SlowDown: please reduce your request rate".into()
        } else {
            Box::new(io::Error::other("injected fault"))
        };
        object_store::Error::Generic {
            store: "faulty",
            source,
        }
    }

    fn judge(&self, call: Call, location: Option<&Path>) -> (usize, Verdict) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.dead.load(Ordering::SeqCst) {
            return (0, Verdict::Before);
        }
        let (turns, verdict) = match &mut *self.trouble.lock().unwrap() {
            Trouble::None => (0, Verdict::Good),
            Trouble::Weather(weather) => weather.judge(call),
            Trouble::At {
                calls_before,
                fault,
                object,
            } => (0, strikes(*fault, calls_before, object, call, location)),
        };
        if verdict != Verdict::Good {
            self.struck.fetch_add(1, Ordering::SeqCst);
            let dies = matches!(
                &*self.trouble.lock().unwrap(),
                Trouble::At {
                    fault: Fault::Die | Fault::DieAfter,
                    ..
                }
            );
            self.dead.store(dies, Ordering::SeqCst);
        }
        (turns, verdict)
    }

    /// Does something to the store, or not, and answers, or not.
    async fn call<T>(
        &self,
        call: Call,
        location: Option<&Path>,
        effect: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let (turns, verdict) = self.judge(call, location);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        match verdict {
            Verdict::Before => Err(self.error()),
            Verdict::After => {
                effect.await?;
                Err(self.error())
            }
            Verdict::Good => effect.await,
        }
    }

    fn note(&self, change: impl FnOnce(&mut Weather)) {
        if let Trouble::Weather(weather) = &mut *self.trouble.lock().unwrap() {
            change(weather);
            let behind = weather.put.len().saturating_sub(BEHIND);
            weather.put.drain(..behind);
            let behind = weather.deleted.len().saturating_sub(BEHIND);
            weather.deleted.drain(..behind);
        }
    }

    fn skewed(&self, mut meta: ObjectMeta) -> ObjectMeta {
        meta.last_modified += TimeDelta::seconds(self.skew);
        meta
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let before = object_store::ObjectStoreExt::head(self.inner.as_ref(), &location).await;
        let inner = Arc::clone(&self.inner);
        let gone = location.clone();
        let effect = async move { object_store::ObjectStoreExt::delete(inner.as_ref(), &gone).await };
        self.call(Call::Delete, Some(&location), effect).await?;
        if let Ok(before) = before {
            self.note(|weather| weather.deleted.push(before));
        }
        Ok(location)
    }

    async fn listed(&self, prefix: Option<Path>) -> Result<Vec<ObjectMeta>> {
        let effect = self.inner.list(prefix.as_ref()).try_collect::<Vec<_>>();
        let mut listed = self.call(Call::List, None, effect).await?;
        if let Trouble::Weather(weather) = &mut *self.trouble.lock().unwrap() {
            let (put, deleted) = (weather.put.clone(), weather.deleted.clone());
            for path in put {
                if weather.chance.below(2) == 0 {
                    listed.retain(|object| object.location != path);
                }
            }
            for old in deleted {
                let is_listed = listed.iter().any(|object| object.location == old.location);
                if !is_listed && weather.chance.below(2) == 0 {
                    listed.push(old);
                }
            }
        }
        Ok(listed.into_iter().map(|meta| self.skewed(meta)).collect())
    }
}

impl Weather {
    fn judge(&mut self, call: Call) -> (usize, Verdict) {
        let turns = self.chance.below(5);
        let verdict = match (self.chance.below(10), call) {
            (0, _) => Verdict::Before,
            (1, Call::Put | Call::Delete) => Verdict::After,
            _ => Verdict::Good,
        };
        (turns, verdict)
    }
}

fn strikes(
    fault: Fault,
    calls_before: &mut usize,
    object: &mut Option<Path>,
    call: Call,
    location: Option<&Path>,
) -> Verdict {
    if fault == Fault::Full && call != Call::Put {
        return Verdict::Good;
    }
    if fault == Fault::Refuse && object.is_some() && object.as_ref() == location {
        return Verdict::Before;
    }
    match *calls_before {
        usize::MAX => return Verdict::Good,
        0 => {}
        _ => {
            *calls_before -= 1;
            return Verdict::Good;
        }
    }
    if fault != Fault::Full {
        *calls_before = usize::MAX;
        *object = location.cloned();
    }
    match fault {
        Fault::Refuse | Fault::Die | Fault::Full => Verdict::Before,
        Fault::LoseAnswer | Fault::DieAfter => Verdict::After,
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let effect = self.inner.put_opts(location, payload, options);
        let put = self.call(Call::Put, Some(location), effect).await;
        self.note(|weather| weather.put.push(location.clone()));
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let effect = self.inner.put_multipart_opts(location, options);
        self.call(Call::Put, Some(location), effect).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let effect = self.inner.get_opts(location, options);
        let mut found = self.call(Call::Read, Some(location), effect).await?;
        found.meta = self.skewed(found.meta);
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = Arc::clone(&self.0);
        locations
            .and_then(move |location| {
                let this = Arc::clone(&this);
                async move { this.delete_one(location).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = Arc::clone(&self.0);
        let prefix = prefix.cloned();
        stream::once(async move { this.listed(prefix).await })
            .map_ok(|listed| stream::iter(listed.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let effect = self.inner.list_with_delimiter(prefix);
        self.call(Call::List, None, effect).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let effect = self.inner.copy_opts(from, to, options);
        self.call(Call::Put, Some(to), effect).await
    }
}
