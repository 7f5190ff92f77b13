-- What a datum took, and the sums of its job, kept as datums are reported, so that no statistics need a scan.
alter table datums
    add column queue_ms bigint not null default 0,
    add column bytes_in bigint not null default 0,
    add column bytes_out bigint not null default 0,
    add column memory_bytes bigint not null default 0,
    add column cpu_ms bigint not null default 0;

-- A page of one state; pending, running, failed and recovered ones have their indexes.
create index datums_succeeded on datums (job_id, position) where state = 'succeeded';
create index datums_skipped on datums (job_id, position) where state = 'skipped';
-- The slowest of each state first. What was not run yet is not in it.
create index datums_slowest on datums (job_id, state, (download_ms + process_ms + upload_ms) desc, position desc)
    where download_ms + process_ms + upload_ms > 0;

-- saved_ms: what user code took when the results were made that this job did not have to make again. results_ms: the
-- same of all its results, which the next job takes over. planned_at, settled_at: when its datums were known, and done.
alter table jobs
    add column bytes_in bigint not null default 0,
    add column bytes_out bigint not null default 0,
    add column memory_bytes bigint not null default 0,
    add column cpu_ms bigint not null default 0,
    add column saved_ms bigint not null default 0,
    add column results_ms bigint not null default 0,
    add column planned_at timestamptz,
    add column settled_at timestamptz;
create index jobs_by_seq on jobs (seq desc);
create index jobs_by_state on jobs (state, seq desc);
