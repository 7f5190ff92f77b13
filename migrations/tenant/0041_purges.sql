-- Receipts of purges: what was taken out of all history, by whom, what went with it, and which packs hold the bytes until
-- garbage is collected.
create table purges (
    id uuid primary key,
    seq bigint generated always as identity,
    repo_id uuid not null references repos (id),
    path text not null,
    actor jsonb not null,
    at timestamptz not null,
    rewritten bigint not null,
    open_commits bigint not null,
    jobs bigint not null,
    results bigint not null,
    log_lines bigint not null,
    voided_repos uuid[] not null,
    voided_counts bigint[] not null,
    copy_repos uuid[] not null,
    copies uuid[] not null,
    packs bytea[] not null,
    erased_at timestamptz
);
create index purges_by_repo on purges (repo_id, seq desc);
