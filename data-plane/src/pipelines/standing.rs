//! How a pipeline that works is: beginning, at work, or with nothing to do. It follows from its jobs and is kept nowhere, so
//! it can't be wrong for longer than they are.

use contract::api::{Pipeline, PipelineState};

use super::standing_queries::StandingRow;

/// Says it of a pipeline that is neither stopped nor failing. `named`: the caller may know of its inputs.
pub fn show(row: &StandingRow, named: bool, shown: &mut Pipeline) {
    if shown.state != PipelineState::Running {
        return;
    }
    let says = |field: &str| {
        shown
            .spec
            .get(field)
            .is_some_and(|v| !v.is_null() && v.as_bool() != Some(false))
    };
    // What has no end has always something to do.
    let autoscaling = says("autoscaling") && !says("service") && !says("spout");
    let (state, reason) = standing(row, named, autoscaling);
    shown.state = state;
    // What it is deprived of says more.
    shown.reason = shown.reason.take().or(reason);
}

fn standing(row: &StandingRow, named: bool, autoscaling: bool) -> (PipelineState, Option<String>) {
    let worked = row.worked == Some(row.version);
    let Some(version) = row.open_version else {
        return match (worked, autoscaling) {
            (true, false) => (PipelineState::Running, None),
            (true, true) => {
                let reason = "it has nothing to do: new data on one of its inputs wakes it";
                (PipelineState::Standby, Some(reason.to_owned()))
            }
            (false, _) => (PipelineState::Starting, Some(waits(row, named))),
        };
    };
    if worked {
        return (PipelineState::Running, None);
    }
    // Jobs are for whom may read what they make, so none is named.
    let reason = match row.open_state.as_deref() {
        _ if version != row.version => {
            format!(
                "version {} begins when the jobs of version {version} are over",
                row.version
            )
        }
        Some("starting") => "the datums of its first job are being worked out".to_owned(),
        _ => "its first job waits until its inputs are finished: `howdah job list` names it".to_owned(),
    };
    (PipelineState::Starting, Some(reason))
}

fn waits(row: &StandingRow, named: bool) -> String {
    match row.empty.as_slice() {
        empty if named && !empty.is_empty() => {
            let names: Vec<String> = empty.iter().map(|name| format!("`{name}`")).collect();
            let has = if empty.len() == 1 { "has" } else { "have" };
            format!(
                "no job of this version began yet, and {} {has} no commit: the next commit on any input begins one",
                names.join(", ")
            )
        }
        _ => "no job of this version began yet: it begins with the next commit on an input, or with `howdah pipeline run`"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(worked: Option<i32>, open: Option<(&str, i32)>) -> StandingRow {
        StandingRow {
            id: Uuid::nil(),
            version: 2,
            worked,
            open_state: open.map(|(state, _)| state.to_owned()),
            open_version: open.map(|(_, version)| version),
            empty: vec!["images".to_owned()],
        }
    }

    #[test]
    fn a_pipeline_starts_until_a_job_of_its_version_has_datums_and_stands_by_with_nothing_to_do() {
        for (worked, open, autoscaling, state, text) in [
            (None, None, false, PipelineState::Starting, "`images` has no commit"),
            (None, None, true, PipelineState::Starting, "`images` has no commit"),
            (
                None,
                Some(("created", 2)),
                true,
                PipelineState::Starting,
                "waits until its inputs",
            ),
            (
                Some(1),
                Some(("starting", 2)),
                false,
                PipelineState::Starting,
                "being worked out",
            ),
            (
                Some(1),
                Some(("running", 1)),
                false,
                PipelineState::Starting,
                "version 2 begins when",
            ),
            (Some(2), Some(("running", 2)), true, PipelineState::Running, ""),
            (Some(2), Some(("created", 2)), true, PipelineState::Running, ""),
            (Some(2), None, false, PipelineState::Running, ""),
            (Some(2), None, true, PipelineState::Standby, "new data"),
        ] {
            let (found, reason) = standing(&row(worked, open), true, autoscaling);
            assert_eq!(found, state, "{worked:?} {open:?}");
            assert!(reason.unwrap_or_default().contains(text));
        }
        let hidden = standing(&row(None, None), false, false).1.unwrap_or_default();
        assert!(!hidden.contains("images"), "{hidden}");
    }
}
