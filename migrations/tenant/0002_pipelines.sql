-- Pipelines, their versions, jobs, datums, results and logs of one tenant.

-- A pipeline's id is the domain id of its output repo.
create table pipelines (
    id uuid primary key references repos (id),
    version integer not null,
    state text not null constraint pipelines_state_known check (state in ('running', 'paused', 'suspended', 'failure')),
    reason text,
    deleted_at timestamptz
);

create table pipeline_versions (
    pipeline_id uuid not null references pipelines (id),
    version integer not null,
    spec jsonb not null,
    spec_digest bytea not null,
    code_digest bytea not null,
    image_digest text,
    code_revision text,
    actor jsonb not null,
    created_at timestamptz not null,
    primary key (pipeline_id, version)
);

-- seq orders the jobs of a pipeline. datums_* count as in contract::api::DatumCounts.
create table jobs (
    id uuid primary key,
    seq bigint generated always as identity,
    pipeline_id uuid not null,
    version integer not null,
    output_commit_id uuid not null constraint jobs_output_commit_unique unique references commits (id),
    commit_set uuid not null,
    state text not null,
    reason text,
    reprocess boolean not null default false,
    base_job_id uuid references jobs (id),
    datums_total bigint not null default 0,
    datums_succeeded bigint not null default 0,
    datums_skipped bigint not null default 0,
    datums_recovered bigint not null default 0,
    datums_failed bigint not null default 0,
    queue_ms bigint not null default 0,
    download_ms bigint not null default 0,
    process_ms bigint not null default 0,
    upload_ms bigint not null default 0,
    -- keys of datums of the base that are gone: their outputs leave the tree
    removed_keys bytea[] not null default '{}',
    created_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    foreign key (pipeline_id, version) references pipeline_versions (pipeline_id, version)
);
create index jobs_by_pipeline on jobs (pipeline_id, seq desc);
create index jobs_by_set on jobs (commit_set);
create index jobs_unfinished on jobs (seq) where finished_at is null;

-- Only datums that this job added; what the base had already is a count in jobs.
create table datums (
    job_id uuid not null references jobs (id),
    position bigint not null,
    key bytea not null,
    inputs bytea not null,
    state text not null,
    attempts integer not null default 0,
    lease_id uuid,
    lease_expires_at timestamptz,
    reason text,
    exit_code integer,
    queued_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    download_ms bigint not null default 0,
    process_ms bigint not null default 0,
    upload_ms bigint not null default 0,
    primary key (job_id, position)
);
create index datums_claimable on datums (job_id, position) where state in ('pending', 'running');
create index datums_by_lease on datums (lease_id) where lease_id is not null;

-- The skip rule: what a datum gave, for ever, in any job of the pipeline. outputs are storage-encoded file entries.
create table datum_results (
    pipeline_id uuid not null references pipelines (id),
    key bytea not null,
    job_id uuid not null references jobs (id),
    outputs bytea not null,
    process_ms bigint not null default 0,
    created_at timestamptz not null,
    primary key (pipeline_id, key)
);

create table datum_logs (
    seq bigint generated always as identity primary key,
    job_id uuid not null references jobs (id),
    datum_key bytea not null,
    attempt integer not null,
    at timestamptz not null,
    stream text not null,
    text text not null
);
create index datum_logs_by_job on datum_logs (job_id, seq);
