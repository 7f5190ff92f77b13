-- Commits whose content was given up. A squashed one lives on in the commits after it, a dropped one went with all that
-- was made from it. The row stays, with its digest, its origins and its provenance: what comes after it names it.
alter table commits drop constraint commits_state_known;
alter table commits
    add constraint commits_state_known check (state in ('open', 'finished', 'errored', 'removed')),
    add column removed_how text constraint commits_removed_how_known check (removed_how in ('squashed', 'dropped', 'purged')),
    add column removed_at timestamptz,
    add column removed_by jsonb,
    -- The digest of the tree that the record's digest covers, where that tree is gone.
    add column recorded_tree_digest bytea,
    add constraint commits_removed_whole check ((state = 'removed') = (removed_how is not null)
        and (state <> 'removed' or (root is null and removed_at is not null and removed_by is not null)));

-- Results of datums that were let go of are missing for good: no job up to this one may be a base.
alter table pipelines add column no_base_until bigint not null default 0;
create index datum_results_by_job on datum_results (job_id);
create index branches_by_head on branches (head_id);
