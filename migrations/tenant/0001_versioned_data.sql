-- Versioned data of one tenant: projects, repos, branches, commits, provenance, origin sets.

create table projects (
    id uuid primary key,
    name text not null constraint projects_name_unique unique,
    created_at timestamptz not null
);

-- A repo's id is its domain id. A deleted repo keeps its row: commits made from it still name its domain.
create table repos (
    id uuid primary key,
    project_id uuid not null references projects (id),
    name text not null,
    description text not null default '',
    pipeline boolean not null default false,
    created_at timestamptz not null,
    created_by jsonb not null,
    deleted_at timestamptz
);
create unique index repos_name_unique on repos (project_id, name) where deleted_at is null;

create table origin_sets (
    id bigint generated always as identity primary key,
    digest bytea not null constraint origin_sets_digest_unique unique,
    entries bytea not null
);

-- seq orders commits of the whole plane. root is storage::TreeRef, null until finished.
create table commits (
    id uuid primary key,
    seq bigint generated always as identity,
    repo_id uuid not null references repos (id),
    branch text not null,
    commit_set uuid not null,
    parent_id uuid references commits (id),
    state text not null constraint commits_state_known check (state in ('open', 'finished', 'errored')),
    reason text,
    root bytea,
    digest bytea,
    size_bytes bigint not null default 0,
    files bigint not null default 0,
    origin_set_id bigint not null references origin_sets (id),
    message text not null default '',
    actor jsonb not null,
    pipeline_id uuid,
    pipeline_version integer,
    image_digest text,
    code_revision text,
    started_at timestamptz not null,
    finished_at timestamptz,
    constraint commits_set_unique unique (repo_id, branch, commit_set)
);
create index commits_by_repo on commits (repo_id, seq desc);
create index commits_by_set on commits (commit_set);
create index commits_by_parent on commits (parent_id);

create table branches (
    repo_id uuid not null references repos (id),
    name text not null,
    head_id uuid references commits (id),
    created_at timestamptz not null,
    primary key (repo_id, name)
);

-- Direct inputs. No statement of ours updates or deletes a row of this table.
create table commit_inputs (
    commit_id uuid not null references commits (id),
    input_id uuid not null references commits (id),
    input_name text not null,
    primary key (commit_id, input_id, input_name)
);
create index commit_inputs_downstream on commit_inputs (input_id);

-- What was put into an open commit, in order: storage-encoded changes, merged onto the parent's tree when it is finished.
create table filesets (
    commit_id uuid not null references commits (id),
    seq bigint generated always as identity,
    changes bytea not null,
    primary key (commit_id, seq)
);
