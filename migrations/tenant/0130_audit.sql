-- The plane's audit trail: a row for each change that is not a commit itself, chained by hash (contract::audit). The one row of
-- audit_chain is the lock under which it grows.
create table audit_chain (
    one boolean primary key default true constraint audit_chain_one check (one),
    seq bigint not null default 0,
    hash bytea not null default '\x'
);
insert into audit_chain default values;

create table audit_events (
    seq bigint primary key,
    format integer not null,
    at timestamptz not null,
    actor text not null,
    actor_name text not null,
    token text not null,
    via text not null,
    action text not null,
    subject text not null,
    request_id text not null,
    address text not null,
    prev_hash bytea not null,
    hash bytea not null
);
create index audit_events_by_time on audit_events (at);

-- A trail grows and does nothing else, whoever asks.
create function audit_events_are_kept() returns trigger language plpgsql as $$
begin
    raise exception 'rows of the audit trail are neither changed nor removed';
end $$;
create trigger audit_events_are_kept before update or delete or truncate on audit_events
    for each statement execute function audit_events_are_kept();
