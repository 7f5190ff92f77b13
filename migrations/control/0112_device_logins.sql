-- Log-ins of a command line that wait for somebody who is logged in elsewhere to approve them. Codes are kept as keyed digests.
create table device_logins (
    device_digest bytea primary key,
    user_digest bytea not null constraint device_logins_user_digest_unique unique,
    client text not null,
    address text not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    interval_seconds integer not null,
    asked_at timestamptz,
    account_id text references accounts (id) on delete cascade,
    denied boolean not null default false
);
create index device_logins_by_end on device_logins (expires_at);
