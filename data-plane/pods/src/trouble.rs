//! What keeps a pod from running code, told apart by what can be done about it, in words for whoever wrote the pipeline.

use chrono::{DateTime, Duration, Utc};

use crate::placing::{self, Lack};
use crate::seen::{ContainerSeen, End, Part, Phase, PodSeen, Told};

/// So many characters of what a cluster or registry says are passed on.
const QUOTED_MAX: usize = 300;
/// Code that was killed for its memory is told of for so long.
const RECENT: Duration = Duration::minutes(2);
/// A container of which nothing else is known counts as broken after so many starts.
const STARTS_MAX: u64 = 6;
/// So much longer than it should take a removed pod may be there.
const SLACK: Duration = Duration::seconds(30);

/// Why an image is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoImage {
    /// Its name is none.
    Name,
    /// The registry has none of that name and digest.
    Absent,
    /// The registry does not show it to us.
    Denied,
    /// It is for another kind of machine.
    OtherMachine,
    /// The registry answers too many others.
    Limited,
    /// The node's disk is full.
    DiskFull,
    /// The registry does not answer.
    Unreachable,
    /// Something else.
    Other,
}

/// Why a pod was taken off its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// It wrote more than it may.
    Disk,
    /// The node was out of memory.
    Memory,
    /// The node was out of disk.
    NodeDisk,
    /// Somebody emptied the node.
    Drained,
}

/// What keeps a pod from running code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// An image is not there.
    Image(Part, NoImage, String),
    /// A container cannot be made.
    NotMade(Part, String),
    /// A container ends again and again.
    Restarting(Part, End),
    /// The code took more memory than it may, and was started again.
    OutOfMemory,
    /// There is no node for it.
    Unplaced(Vec<Lack>),
    /// It was taken off its node.
    Evicted(Eviction),
    /// Something more important needed its place.
    Preempted,
    /// Its node is gone.
    NodeLost,
    /// Its node takes no more.
    Turned(String),
    /// It ended.
    Ended(String),
}

/// What is to become of a pod in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The cluster goes on trying.
    Waits,
    /// It will not run again, and that costs its datums no try.
    LostBlameless,
    /// It will not run again.
    Lost,
}

/// What keeps this pod from running code, if anything does.
pub fn diagnose(pod: &PodSeen, now: DateTime<Utc>) -> Option<Trouble> {
    lost(pod, now).or_else(|| unplaced(pod)).or_else(|| {
        let mut parts: Vec<&ContainerSeen> = pod.containers.iter().collect();
        parts.sort_by_key(|container| container.part);
        parts.into_iter().find_map(|container| broken(container, now))
    })
}

fn lost(pod: &PodSeen, now: DateTime<Utc>) -> Option<Trouble> {
    if pod.phase == Phase::Unknown || pod.told.reason == "NodeLost" || pod.gone_by.is_some_and(|at| now > at + SLACK) {
        return Some(Trouble::NodeLost);
    }
    if let Some(why) = &pod.disrupted
        && (pod.gone_by.is_some() || pod.phase == Phase::Ended)
    {
        return Some(match why.reason.as_str() {
            "PreemptionByScheduler" => Trouble::Preempted,
            "DeletionByTaintManager" | "DeletionByPodGC" => Trouble::NodeLost,
            "EvictionByEvictionAPI" => Trouble::Evicted(Eviction::Drained),
            _ => ended(&pod.told).unwrap_or(Trouble::NodeLost),
        });
    }
    (pod.phase == Phase::Ended).then(|| ended(&pod.told).unwrap_or_else(|| Trouble::Ended(quoted(&pod.told.message))))
}

/// What a kubelet says of a pod that it ended.
fn ended(told: &Told) -> Option<Trouble> {
    let message = told.message.to_lowercase();
    match told.reason.as_str() {
        "Evicted" if message.contains("exceeds") || message.contains("limit") => Some(Trouble::Evicted(Eviction::Disk)),
        "Evicted" if message.contains("memory") => Some(Trouble::Evicted(Eviction::Memory)),
        "Evicted" => Some(Trouble::Evicted(Eviction::NodeDisk)),
        "Preempting" | "Preempted" => Some(Trouble::Preempted),
        "Terminated" | "NodeShutdown" | "Shutdown" => Some(Trouble::NodeLost),
        "NodeAffinity" | "UnexpectedAdmissionError" => Some(Trouble::Turned(told.reason.clone())),
        out if out.starts_with("OutOf") => Some(Trouble::Turned(told.reason.clone())),
        _ => None,
    }
}

fn unplaced(pod: &PodSeen) -> Option<Trouble> {
    let told = pod.unplaced.as_ref()?;
    (told.reason == "Unschedulable").then(|| Trouble::Unplaced(placing::lacks(&told.message)))
}

fn broken(container: &ContainerSeen, now: DateTime<Utc>) -> Option<Trouble> {
    let part = container.part;
    if let Some(waiting) = &container.waiting {
        match waiting.reason.as_str() {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable" => {
                let (why, said) = no_image(waiting);
                return Some(Trouble::Image(part, why, said));
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                return Some(Trouble::NotMade(part, quoted(&waiting.message)));
            }
            _ => {}
        }
    }
    let ended = container.ended.as_ref()?;
    let recent = ended.at.is_some_and(|at| now - at < RECENT);
    if ended.told.reason == "OOMKilled" && part == Part::User && recent {
        return Some(Trouble::OutOfMemory);
    }
    // One that runs again has got over it.
    if !container.ready && (ended.told.reason == "StartError" || ended.told.reason == "ContainerCannotRun") {
        return Some(Trouble::NotMade(part, quoted(&ended.told.message)));
    }
    let waits = container
        .waiting
        .as_ref()
        .is_some_and(|w| w.reason == "CrashLoopBackOff");
    (waits && container.restarts >= 2).then(|| Trouble::Restarting(part, ended.clone()))
}

/// The registry's answer behind `Back-off pulling image "…": ErrImagePull: `, and what it means.
fn no_image(waiting: &Told) -> (NoImage, String) {
    let message = waiting.message.as_str();
    let said = message.split_once("ErrImagePull: ").map_or(message, |(_, said)| said);
    let lower = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let why = match waiting.reason.as_str() {
        "InvalidImageName" => NoImage::Name,
        "ErrImageNeverPull" => NoImage::Absent,
        _ if has(&["toomanyrequests", "too many requests", "429"]) => NoImage::Limited,
        _ if has(&[
            "unauthorized",
            "forbidden",
            "denied",
            "authorization failed",
            "authentication required",
        ]) =>
        {
            NoImage::Denied
        }
        _ if has(&["no match for platform", "exec format"]) => NoImage::OtherMachine,
        _ if has(&["not found", "manifest unknown", "404"]) => NoImage::Absent,
        _ if has(&["no space left"]) => NoImage::DiskFull,
        _ if has(&[
            "dial tcp",
            "timeout",
            "no such host",
            "connection re",
            "tls",
            "x509",
            "unreachable",
            "eof",
        ]) =>
        {
            NoImage::Unreachable
        }
        _ => NoImage::Other,
    };
    (why, quoted(said))
}

fn quoted(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTED_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

impl Trouble {
    /// What becomes of the pod.
    pub fn fate(&self) -> Fate {
        match self {
            Self::Image(..) | Self::NotMade(..) | Self::Restarting(..) | Self::OutOfMemory | Self::Unplaced(_) => {
                Fate::Waits
            }
            Self::Preempted | Self::NodeLost | Self::Turned(_) | Self::Evicted(Eviction::Drained) => {
                Fate::LostBlameless
            }
            Self::Evicted(_) | Self::Ended(_) => Fate::Lost,
        }
    }

    /// After how long it is hopeless; `None` = it may pass, or is not the pipeline's to mend.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Self::Image(Part::User, NoImage::Name, _) => Some(Duration::zero()),
            Self::Image(Part::User, NoImage::Absent | NoImage::Denied | NoImage::OtherMachine, _)
            | Self::NotMade(Part::User, _) => Some(Duration::minutes(5)),
            Self::Image(Part::User, ..) => Some(Duration::hours(1)),
            Self::Restarting(Part::User, _) => Some(Duration::minutes(10)),
            _ => None,
        }
    }

    /// Which of several is told: the one that most has to be done about first.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Image(Part::User, ..) => 0,
            Self::NotMade(Part::User, _) => 1,
            Self::Restarting(Part::User, _) => 2,
            Self::OutOfMemory => 3,
            Self::Evicted(_) => 4,
            Self::Unplaced(_) => 5,
            Self::Turned(_) => 6,
            Self::Preempted => 7,
            Self::NodeLost => 8,
            Self::Ended(_) => 9,
            Self::Image(..) | Self::NotMade(..) | Self::Restarting(..) => 10,
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const OURS: &str = "whoever operates the service has to look at it";
        match self {
            Self::Image(Part::User, why, said) => write!(f, "the image cannot be pulled: {}", image_words(*why, said)),
            Self::Image(_, _, said) => write!(f, "an image of the service cannot be pulled, {OURS}: {said}"),
            Self::NotMade(Part::User, said) => write!(f, "the image's container cannot be started: {said}"),
            Self::NotMade(_, said) => write!(f, "a container of the service cannot be started, {OURS}: {said}"),
            Self::Restarting(Part::User, end) => write!(
                f,
                "what runs commands in the image ends again and again ({}): is it an image for linux on this kind of processor, without \
                 limits too low to start in?",
                end_words(end)
            ),
            Self::Restarting(_, end) => {
                write!(f, "the agent beside the code ends again and again ({}), {OURS}", end_words(end))
            }
            Self::OutOfMemory => f.write_str(
                "the code was killed because it took more memory than it may; raise `resource_limits.memory`, or read less at a time",
            ),
            Self::Unplaced(lacks) => write!(f, "waits for a node: {}", placing::in_words(lacks)),
            Self::Evicted(Eviction::Disk) => f.write_str(
                "its pod was ended because it took more disk than it may; raise `resource_limits.disk`, or write less",
            ),
            Self::Evicted(Eviction::Memory) => f.write_str(
                "its pod was ended because its node ran out of memory; say in `resource_requests.memory` how much the code takes",
            ),
            Self::Evicted(Eviction::NodeDisk) => f.write_str(
                "its pod was ended because its node ran out of disk; say in `resource_limits.disk` how much the code takes",
            ),
            Self::Evicted(Eviction::Drained) => {
                f.write_str("its node was emptied by whoever operates the cluster; it goes on elsewhere")
            }
            Self::Preempted => {
                f.write_str("its pod had to make room for one of higher priority; it goes on when there is room again")
            }
            Self::NodeLost => f.write_str("its node was lost; it goes on elsewhere"),
            Self::Turned(why) => write!(f, "its node did not take the pod after all ({why}); it goes on elsewhere"),
            Self::Ended(said) if said.is_empty() => f.write_str("its pod ended; it is made anew"),
            Self::Ended(said) => write!(f, "its pod ended ({said}); it is made anew"),
        }
    }
}

fn image_words(why: NoImage, said: &str) -> String {
    match why {
        NoImage::Name => format!("its name is none that a cluster understands; correct `transform.image`: {said}"),
        NoImage::Absent => {
            format!("the registry has it no more; push it, and apply the pipeline again: {said}")
        }
        NoImage::Denied => format!(
            "the registry shows it only to who signs in; name a secret that may read it in `transform.image_pull_secrets`: {said}"
        ),
        NoImage::OtherMachine => {
            format!("it is for another kind of processor than the node's; build it for that: {said}")
        }
        NoImage::Limited => format!("the registry is asked too often; it is tried again, or sign in to it: {said}"),
        NoImage::DiskFull => "the node's disk is full; it is tried again".to_owned(),
        NoImage::Unreachable => format!("the nodes do not reach its registry; it is tried again: {said}"),
        NoImage::Other => said.to_owned(),
    }
}

fn end_words(end: &End) -> String {
    let mut words = format!("exit code {}", end.exit_code);
    for said in [&end.told.reason, &end.told.message] {
        if !said.is_empty() {
            words = format!("{words}, {}", quoted(said));
        }
    }
    words
}

/// Whether a pod that has that trouble is beyond hope. It has it since its container ended, or since it was made where none has.
pub fn is_hopeless(trouble: &Trouble, pod: &PodSeen, now: DateTime<Utc>) -> bool {
    let of = |part: Part| pod.containers.iter().find(|c| c.part == part);
    let ended = |part: Part| of(part).and_then(|c| c.ended.as_ref()?.at);
    let (starts, since) = match trouble {
        // What has no end is started again for as long as it is wanted, and its pod is as old as that.
        Trouble::Restarting(..) if pod.kind.lasts() => (false, None),
        // It ends anew each time.
        Trouble::Restarting(part, _) => (of(*part).is_some_and(|c| c.restarts >= STARTS_MAX), None),
        Trouble::Image(part, ..) | Trouble::NotMade(part, _) => (true, ended(*part)),
        _ => (true, None),
    };
    starts
        && trouble
            .patience()
            .is_some_and(|patience| now - since.unwrap_or(pod.created_at) >= patience)
}
