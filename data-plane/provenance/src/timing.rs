//! Where the time of a job goes: its phases, what to do about them in words, and the chain of jobs that a commit set
//! waited for (the critical path).

use chrono::{DateTime, Utc};

/// A phase that takes less of the time than this is not worth a word.
const WORTH_A_WORD: f64 = 0.5;
/// Jobs shorter than this get no advice, seconds.
const ADVICE_LEAST_S: f64 = 5.0;

/// The moments of a job's life, as far as it has come.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    /// It was made.
    pub created: DateTime<Utc>,
    /// The last of its inputs was finished.
    pub ready: Option<DateTime<Utc>>,
    /// It was begun: all before it in its pipeline were over.
    pub started: Option<DateTime<Utc>>,
    /// Its datums were known.
    pub planned: Option<DateTime<Utc>>,
    /// The last of its datums was done.
    pub settled: Option<DateTime<Utc>>,
    /// It ended.
    pub finished: Option<DateTime<Utc>>,
}

/// A stretch of a job's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its inputs were not finished.
    Upstream,
    /// The job before it in its pipeline, or the scheduler, was not ready for it.
    Queue,
    /// Its datums were worked out.
    Planning,
    /// Datums ran or waited for a worker.
    Running,
    /// The output was put together.
    Finishing,
}

impl Phase {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Queue => "queue",
            Self::Planning => "planning",
            Self::Running => "running",
            Self::Finishing => "finishing",
        }
    }
}

impl Moments {
    /// When it ended, or now.
    pub fn end(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.finished.unwrap_or(now)
    }

    /// Seconds of each phase, in order; together they are the time from when it was made to its end, or to now. A moment
    /// that did not come before the end counts as the end.
    pub fn phases(&self, now: DateTime<Utc>) -> [(Phase, f64); 5] {
        let end = self.end(now).max(self.created);
        let mut at = self.created;
        let mut until = |moment: Option<DateTime<Utc>>| {
            let next = moment.unwrap_or(end).clamp(at, end);
            let seconds = (next - at).num_microseconds().unwrap_or(0) as f64 / 1e6;
            at = next;
            seconds
        };
        // A job that was begun had its inputs, whatever is written down of them.
        let ready = match (self.ready, self.started) {
            (Some(ready), Some(started)) => Some(ready.min(started)),
            (ready, started) => ready.or(started),
        };
        [
            (Phase::Upstream, until(ready)),
            (Phase::Queue, until(self.started)),
            (Phase::Planning, until(self.planned)),
            (Phase::Running, until(self.settled)),
            (Phase::Finishing, until(None)),
        ]
    }
}

/// What advice is made from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// From its beginning to its end, seconds.
    pub wall_s: f64,
    /// Working out the datums, seconds.
    pub planning_s: f64,
    /// Putting the output together, and sending it, seconds.
    pub finishing_s: f64,
    /// Whether the output is sent elsewhere before it is published.
    pub sends: bool,
    /// Datums that ran.
    pub ran: u64,
    /// Waiting of all datums, seconds.
    pub queue_s: f64,
    /// Bringing inputs, of all datums, seconds.
    pub download_s: f64,
    /// User code of all datums, seconds.
    pub process_s: f64,
    /// Storing outputs, of all datums, seconds.
    pub upload_s: f64,
    /// Processor time, seconds.
    pub cpu_s: f64,
    /// Peak memory of a process, bytes.
    pub memory_bytes: u64,
    /// The limit of it.
    pub memory_limit: Option<u64>,
    /// User code of the slowest datum, seconds.
    pub slowest_s: f64,
}

/// What could be done to make such a job faster; nothing for one that is quick.
pub fn advice(figures: &Figures) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(limit) = figures.memory_limit.filter(|limit| *limit > 0) {
        let share = figures.memory_bytes as f64 / limit as f64;
        if share > 0.9 {
            told.push(format!(
                "a datum took {} of resource_limits.memory: raise it before one is ended by it",
                percent(share)
            ));
        }
    }
    if figures.wall_s < ADVICE_LEAST_S {
        return told;
    }
    let work = figures.download_s + figures.process_s + figures.upload_s;
    if work > 0.0 {
        let download = figures.download_s / work;
        let upload = figures.upload_s / work;
        if download > WORTH_A_WORD {
            told.push(format!(
                "{} of the datums' time was download: consider a narrower glob, or larger datums",
                percent(download)
            ));
        }
        if upload > WORTH_A_WORD {
            told.push(format!(
                "{} of the datums' time was upload: consider fewer, larger output files",
                percent(upload)
            ));
        }
    }
    if figures.ran > 1000 && figures.process_s / figures.ran as f64 <= 0.05 {
        told.push(format!(
            "{} datums of {:.0} ms each: starting them is most of the work, consider larger datums",
            figures.ran,
            figures.process_s * 1000.0 / figures.ran as f64
        ));
    }
    if figures.ran > 1 && figures.slowest_s / figures.wall_s > WORTH_A_WORD {
        told.push(format!(
            "one datum took {} of the job's time: split it, or raise what it waits for",
            percent(figures.slowest_s / figures.wall_s)
        ));
    }
    let rest = [
        (figures.planning_s, "working out its datums"),
        (
            figures.finishing_s,
            match figures.sends {
                true => "putting its output together and sending it",
                false => "putting its output together",
            },
        ),
    ];
    for (seconds, what) in rest {
        if seconds / figures.wall_s > WORTH_A_WORD {
            told.push(format!("{} of the time was {what}", percent(seconds / figures.wall_s)));
        }
    }
    if figures.ran > 0 && figures.queue_s > 4.0 * work && work > 0.0 {
        told.push("datums waited longer for a worker than they ran: more workers would make the job faster".to_owned());
    }
    if figures.process_s > ADVICE_LEAST_S && figures.cpu_s / figures.process_s < 0.1 {
        told.push(format!(
            "the code used a processor for {} of the time that it ran: it waits for something, so more datums at once would not cost more",
            percent(figures.cpu_s / figures.process_s)
        ));
    }
    told
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share.min(1.0) * 100.0)
}

/// A job of a commit set.
#[derive(Debug, Clone)]
pub struct Node<K> {
    /// Names it.
    pub id: K,
    /// Its moments.
    pub moments: Moments,
    /// The jobs of the set whose outputs it reads.
    pub upstream: Vec<K>,
}

/// The chain of jobs that a commit set waited for, first to last: from the job that ended last, each time to that input
/// which came last. Without any of the jobs in it the set would have been ready no later; between them is no time that
/// none of them took. Jobs of equal ends are told apart by their ids.
pub fn critical_path<K: Ord + Clone>(nodes: &[Node<K>], now: DateTime<Utc>) -> Vec<K> {
    let end = |node: &&Node<K>| (node.moments.end(now), node.id.clone());
    let mut at = nodes.iter().max_by_key(end);
    let mut path: Vec<K> = Vec::new();
    while let Some(node) = at {
        // Stored edges make no circle, but a walk must end whatever is stored.
        if path.contains(&node.id) {
            break;
        }
        path.push(node.id.clone());
        let before = nodes.iter().filter(|other| node.upstream.contains(&other.id));
        at = before.max_by_key(end);
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
    }

    fn done(created: i64, ready: i64, started: i64, planned: i64, settled: i64, finished: i64) -> Moments {
        Moments {
            created: at(created),
            ready: Some(at(ready)),
            started: Some(at(started)),
            planned: Some(at(planned)),
            settled: Some(at(settled)),
            finished: Some(at(finished)),
        }
    }

    fn seconds(moments: &Moments, now: i64) -> Vec<f64> {
        moments.phases(at(now)).iter().map(|(_, s)| *s).collect()
    }

    #[test]
    fn the_phases_of_a_job_are_all_of_its_time() {
        assert_eq!(seconds(&done(0, 3, 5, 6, 16, 18), 99), [3.0, 2.0, 1.0, 10.0, 2.0]);
        // An input that was there before the job cost it nothing.
        assert_eq!(seconds(&done(0, -50, 5, 6, 16, 18), 99), [0.0, 5.0, 1.0, 10.0, 2.0]);
    }

    #[test]
    fn a_job_that_is_not_over_spends_its_time_in_the_phase_that_it_is_in() {
        let waiting = Moments {
            created: at(0),
            ready: None,
            started: None,
            planned: None,
            settled: None,
            finished: None,
        };
        assert_eq!(seconds(&waiting, 7), [7.0, 0.0, 0.0, 0.0, 0.0]);
        let running = Moments {
            ready: Some(at(1)),
            started: Some(at(2)),
            planned: Some(at(3)),
            ..waiting
        };
        assert_eq!(seconds(&running, 10), [1.0, 1.0, 1.0, 7.0, 0.0]);
        // Killed while it waited.
        let killed = Moments {
            finished: Some(at(4)),
            ..waiting
        };
        assert_eq!(seconds(&killed, 100), [4.0, 0.0, 0.0, 0.0, 0.0]);
        // A clock that went back makes no negative time.
        assert_eq!(seconds(&running, -5).iter().sum::<f64>(), 0.0);
    }

    fn node(id: &'static str, finished: i64, upstream: &[&'static str]) -> Node<&'static str> {
        Node {
            id,
            moments: done(0, 0, 0, 0, finished, finished),
            upstream: upstream.to_vec(),
        }
    }

    #[test]
    fn the_critical_path_goes_through_the_slower_side_of_a_diamond() {
        let nodes = [
            node("first", 2, &[]),
            node("quick", 3, &["first"]),
            node("slow", 9, &["first"]),
            node("join", 10, &["quick", "slow"]),
            node("aside", 8, &["quick"]),
        ];
        assert_eq!(critical_path(&nodes, at(99)), ["first", "slow", "join"]);
    }

    #[test]
    fn the_critical_path_ends_in_what_ended_last_even_when_nothing_reads_it() {
        let nodes = [
            node("first", 2, &[]),
            node("long", 20, &["first"]),
            node("short", 5, &["first"]),
        ];
        assert_eq!(critical_path(&nodes, at(99)), ["first", "long"]);
        assert!(critical_path::<u8>(&[], at(0)).is_empty());
    }

    #[test]
    fn what_is_not_over_yet_is_the_end_of_the_critical_path() {
        let mut open = node("open", 0, &["first"]);
        open.moments.finished = None;
        let nodes = [node("first", 2, &[]), open, node("other", 50, &["first"])];
        assert_eq!(critical_path(&nodes, at(60)), ["first", "open"]);
    }

    #[test]
    fn a_circle_in_what_is_stored_ends_the_walk() {
        let nodes = [node("a", 2, &["b"]), node("b", 1, &["a"])];
        assert_eq!(critical_path(&nodes, at(9)), ["b", "a"]);
    }

    #[test]
    fn advice_names_what_took_the_time_and_is_silent_about_quick_jobs() {
        let slow = Figures {
            wall_s: 100.0,
            ran: 10,
            download_s: 90.0,
            process_s: 8.0,
            upload_s: 2.0,
            cpu_s: 8.0,
            slowest_s: 10.0,
            ..Figures::default()
        };
        let told = advice(&slow);
        assert!(
            told.len() == 1 && told[0].contains("90 % of the datums' time was download"),
            "{told:?}"
        );
        assert!(advice(&Figures { wall_s: 1.0, ..slow }).is_empty());
        let one = Figures {
            download_s: 1.0,
            process_s: 95.0,
            cpu_s: 90.0,
            slowest_s: 80.0,
            ..slow
        };
        let told = advice(&one);
        assert!(told.len() == 1 && told[0].contains("one datum took 80 %"), "{told:?}");
        let near = Figures {
            memory_bytes: 95,
            memory_limit: Some(100),
            ..Figures::default()
        };
        assert!(advice(&near)[0].contains("95 % of resource_limits.memory"));
    }
}
