-- Commands that run until they are replaced and answer at a port: one at most of a pipeline, as long as its job is not over.
-- run counts starts and is the attempt of its lines; failures counts ends in a row; changed_at is when the state began.
create table services (
    job_id uuid primary key references jobs (id),
    pipeline_id uuid not null constraint services_one_each unique references pipelines (id),
    port integer not null,
    state text not null constraint services_state_known check (state in ('starting', 'answering', 'waiting')),
    reason text,
    run integer not null default 0,
    worker uuid,
    failures integer not null default 0,
    not_before timestamptz,
    answered_at timestamptz,
    changed_at timestamptz not null
);
