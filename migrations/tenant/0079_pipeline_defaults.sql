-- What specs begin with: of the organization (project_id null) and of projects.
create table pipeline_defaults (
    project_id uuid references projects (id),
    spec jsonb not null,
    actor jsonb not null,
    updated_at timestamptz not null,
    constraint pipeline_defaults_unique unique nulls not distinct (project_id)
);
