-- Secrets that pipelines use. values_encrypted is null once a secret was deleted: its version goes on counting, so that one
-- set again is another one to the datums that used it.
create table secrets (
    project_id uuid not null references projects (id),
    name text not null,
    version integer not null,
    keys text[] not null,
    values_encrypted bytea,
    actor jsonb not null,
    updated_at timestamptz not null,
    primary key (project_id, name)
);
