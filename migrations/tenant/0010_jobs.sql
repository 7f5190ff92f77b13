-- What the scheduler needs to plan in proportion to the change, and what workers need to hold leases.

-- The leaves of a pipeline's current version, so that propagation reads edges and not specs.
create table pipeline_inputs (
    pipeline_id uuid not null references pipelines (id),
    position integer not null,
    name text not null,
    repo_id uuid not null references repos (id),
    branch text not null,
    primary key (pipeline_id, position)
);
create index pipeline_inputs_by_repo on pipeline_inputs (repo_id);
alter table pipelines add column output_branch text not null default 'main';

-- Taken out of the spec when it is applied, so that propagation parses none. plan_digest: code and inputs.
alter table pipeline_versions
    add column plan_digest bytea not null default '',
    add column datum_tries integer not null default 3,
    add column parallelism integer,
    add column every_job boolean not null default false,
    add column job_timeout_ms bigint;

-- The commit that each leaf of the spec reads in a job, by the leaf's position.
create table job_inputs (
    job_id uuid not null references jobs (id),
    position integer not null,
    name text not null,
    commit_id uuid not null references commits (id),
    primary key (job_id, position)
);
create index job_inputs_by_commit on job_inputs (commit_id);

-- plan_digest: equal for jobs whose datums can be compared. datums_open: rows that are pending or running.
alter table jobs
    add column plan_digest bytea not null default '',
    add column datums_open bigint not null default 0,
    add column datum_tries integer not null default 3,
    add column parallelism integer,
    add column isolation text;
create index jobs_base on jobs (pipeline_id, seq desc) where state = 'success';

-- claims counts leases, attempts runs of user code, failures those of them that failed.
alter table datums
    drop column lease_expires_at,
    add column claims integer not null default 0,
    add column failures integer not null default 0,
    add column details jsonb;
create index datums_by_key on datums (key);
create index datums_running on datums (job_id) where state = 'running';
create index datums_failed on datums (job_id, position) where state in ('failed', 'recovered');

-- A worker renews these; when one is gone, what it held is free again.
create table leases (
    id uuid primary key,
    worker uuid not null,
    expires_at timestamptz not null
);

-- A line sent twice is kept once.
alter table datum_logs add column line integer not null default 0;
create unique index datum_logs_once on datum_logs (job_id, datum_key, attempt, line);

-- Retroactive releases whose commits have been given new origin sets.
create table applied_releases (
    release_id uuid primary key,
    applied_at timestamptz not null
);

-- A retroactive release gives a finished commit another origin set; its record's digest covers the first one.
alter table commits add column recorded_origin_set_id bigint references origin_sets (id);
