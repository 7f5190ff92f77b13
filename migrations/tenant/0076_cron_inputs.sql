-- Cron inputs of pipelines: a repo each, which gets a file at every tick.
create table cron_inputs (
    repo_id uuid primary key references repos (id),
    pipeline_id uuid not null references pipelines (id),
    spec text not null,
    overwrite boolean not null,
    start_at timestamptz,
    -- the last tick that has its file, or where counting began
    counted_to timestamptz not null,
    -- the tick behind it; null: none comes by itself
    next_at timestamptz
);
create index cron_inputs_by_pipeline on cron_inputs (pipeline_id);
create index cron_inputs_by_next on cron_inputs (next_at) where next_at is not null;
