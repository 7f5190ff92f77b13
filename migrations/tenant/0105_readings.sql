-- Who read what, so that it can be asked who was exposed to something (R12). One row for each reader of a commit; last_at is kept to the
-- hour, so that reading the same again writes nothing. Commits are named and not referred to: a row outlives whatever becomes of one.
create table readings (
    commit_id uuid not null,
    principal text not null,
    name text not null,
    first_at timestamptz not null,
    last_at timestamptz not null,
    primary key (commit_id, principal)
);
create index readings_by_time on readings (last_at);
