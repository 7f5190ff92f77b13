-- How browsers reach services: a ticket is good once and becomes a cookie. Both act for the session or API token that asked
-- for the ticket and are good no longer than it; both are for one service alone. Of secrets there are digests only.
create table service_entries (
    secret_sha256 bytea primary key,
    kind text not null constraint service_entries_kind_known check (kind in ('ticket', 'cookie')),
    token_id text not null,
    organization_id text not null references organizations (id) on delete cascade,
    organization_name text not null,
    project text not null,
    name text not null,
    expires_at timestamptz not null
);
create index service_entries_by_end on service_entries (expires_at);
