//! Where time goes, as text for people: of jobs, their datums, pipelines, and along a critical path.

use contract::api::{CriticalPath, Datum, JobStatistics, Phase, PipelineStatistics};

use crate::job::short;
use crate::output::{or_dash, size, table, time};

/// The longest bar.
const BAR: usize = 30;

/// `1.52 s`, `3 min 20 s`, `2 h 05 min`.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{seconds:.2} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A bar that is as long as its share of the whole.
fn bar(part: f64, whole: f64) -> String {
    let share = if whole > 0.0 {
        (part / whole).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let length = (share * BAR as f64).round() as usize;
    // What took any time shows.
    "█".repeat(length.max(usize::from(part > 0.0)))
}

fn bars(parts: &[(&str, f64)], whole: f64) -> Vec<String> {
    let line = |(name, seconds): &(&str, f64)| {
        let line = format!("  {name:<10} {:>12}  {}", span(*seconds), bar(*seconds, whole));
        line.trim_end().to_owned()
    };
    parts.iter().map(line).collect()
}

fn named(phases: &[Phase]) -> Vec<(&str, f64)> {
    phases.iter().map(|p| (p.name.as_str(), p.seconds)).collect()
}

/// Where the time of a job went.
pub fn of_job(found: &JobStatistics) -> String {
    let mut lines = vec![format!("took        {}", span(found.wall_s))];
    lines.extend(bars(&named(&found.phases), found.wall_s));
    let t = &found.timings;
    let work = [
        ("queue", t.queue_s),
        ("download", t.download_s),
        ("process", t.process_s),
        ("upload", t.upload_s),
    ];
    let sum: f64 = work.iter().map(|(_, s)| s).sum();
    lines.push(format!("datums took {} together", span(sum)));
    lines.extend(bars(&work, sum));
    let bytes_in = found.bytes_in.map_or_else(|| "restricted".to_owned(), size);
    lines.push(format!("bytes       {bytes_in} in, {} out", size(found.bytes_out)));
    lines.push(format!(
        "processor   {} used{}{}",
        span(found.cpu_s),
        found
            .cpu_used
            .map_or_else(String::new, |n| format!(", {n:.2} processors while code ran")),
        found
            .requested
            .cpu
            .map_or_else(String::new, |n| format!(", {n} requested")),
    ));
    let asked = found.requested;
    lines.push(format!(
        "memory      {} at most{}{}",
        size(found.memory_bytes),
        asked
            .memory_bytes
            .map_or_else(String::new, |n| format!(", {} requested", size(n))),
        asked
            .memory_limit_bytes
            .map_or_else(String::new, |n| format!(", limit {}", size(n))),
    ));
    if found.datums.skipped > 0 {
        lines.push(format!(
            "skipped     {} datums, which saved {} of user code",
            found.datums.skipped,
            span(found.saved_s)
        ));
    }
    if !found.slowest.is_empty() {
        lines.push("slowest datums".to_owned());
        lines.extend(found.slowest.iter().map(|datum| format!("  {}", datum_line(datum))));
    }
    lines.extend(found.hints.iter().map(|hint| format!("hint        {hint}")));
    lines.join("\n")
}

/// A datum in a list.
pub fn datum_line(datum: &Datum) -> String {
    let reason = datum.reason.as_ref().map_or_else(String::new, |r| format!("  {r}"));
    let took = datum.download_s + datum.process_s + datum.upload_s;
    format!(
        "{}  {:9}  {:>11}  {}{reason}",
        short(&datum.id),
        datum.state.as_str(),
        if took > 0.0 { span(took) } else { "-".to_owned() },
        datum.inputs.join(" ")
    )
}

/// A datum.
pub fn of_datum(datum: &Datum) -> String {
    let mut lines = vec![
        format!("datum       {}", datum.id),
        format!("job         {}", datum.job),
        format!("state       {}", datum.state.as_str()),
    ];
    if let Some(reason) = &datum.reason {
        lines.push(format!("reason      {reason}"));
    }
    lines.extend(datum.inputs.iter().map(|input| format!("input       {input}")));
    lines.push(format!("attempts    {}", datum.attempts));
    lines.push(format!("exit code   {}", or_dash(datum.exit_code)));
    let parts = [
        ("queue", datum.queue_s),
        ("download", datum.download_s),
        ("process", datum.process_s),
        ("upload", datum.upload_s),
    ];
    let sum: f64 = parts.iter().map(|(_, s)| s).sum();
    lines.push(format!("took        {}", span(sum)));
    lines.extend(bars(&parts, sum));
    let bytes_in = datum.bytes_in.map_or_else(|| "restricted".to_owned(), size);
    lines.push(format!("bytes       {bytes_in} in, {} out", size(datum.bytes_out)));
    lines.push(format!("processor   {}", span(datum.cpu_s)));
    lines.push(format!("memory      {} at most", size(datum.memory_bytes)));
    lines.push(format!("started     {}", or_dash(datum.started_at.as_ref().map(time))));
    lines.push(format!("finished    {}", or_dash(datum.finished_at.as_ref().map(time))));
    lines.join("\n")
}

/// The last jobs of a pipeline.
pub fn of_pipeline(found: &PipelineStatistics) -> String {
    if found.runs.is_empty() {
        return "no jobs yet".to_owned();
    }
    let longest = found.runs.iter().map(|run| run.ran_s).fold(0.0, f64::max);
    let rows: Vec<Vec<String>> = found
        .runs
        .iter()
        .map(|run| {
            vec![
                time(&run.created_at),
                run.job.to_string(),
                format!("v{}", run.version),
                run.state.as_str().to_owned(),
                span(run.ran_s),
                run.datums.total.to_string(),
                run.datums.skipped.to_string(),
                run.datums.failed.to_string(),
                bar(run.ran_s, longest),
            ]
        })
        .collect();
    let header = [
        "made", "job", "version", "state", "took", "datums", "skipped", "failed", "",
    ];
    let mut text = table(&header, &rows);
    if let (Some(median), Some(longest)) = (found.median_s, found.longest_s) {
        text.push_str(&format!("\nmedian {}, longest {}", span(median), span(longest)));
    }
    text
}

/// The chain of jobs that a commit set waited for.
pub fn critical_path(found: &CriticalPath) -> String {
    let mut lines = vec![format!("commit set {} took {}", found.commit_set, span(found.wall_s))];
    if found.steps.is_empty() {
        lines.push("no job was needed for it".to_owned());
    }
    for step in &found.steps {
        lines.push(format!(
            "{}/{}  {}  {}",
            step.project,
            step.pipeline,
            step.job,
            step.state.as_str()
        ));
        lines.extend(bars(&named(&step.phases), found.wall_s));
        if let Some(behind) = step.behind {
            lines.push(format!("  waited for {behind}, the job before it in its pipeline"));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_the_unit_that_fits() {
        assert_eq!(span(0.0), "0.00 s");
        assert_eq!(span(1.524), "1.52 s");
        assert_eq!(span(200.0), "3 min 20 s");
        assert_eq!(span(7500.0), "2 h 05 min");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_and_shows_what_took_any_time() {
        assert_eq!(bar(5.0, 10.0).chars().count(), BAR / 2);
        assert_eq!(bar(10.0, 10.0).chars().count(), BAR);
        assert_eq!(bar(0.0001, 10.0).chars().count(), 1);
        assert_eq!(bar(0.0, 10.0), "");
        assert_eq!(bar(0.0, 0.0), "");
    }
}
