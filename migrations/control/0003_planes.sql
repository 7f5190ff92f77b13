-- Keys, and where the organizations' data planes are.

create table signing_keys (
    kid text primary key,
    secret_encrypted bytea not null,
    created_at timestamptz not null,
    retired_at timestamptz
);

create sequence plane_numbers as integer minvalue 1;

-- wanted is what ought to be, generation grows when it changes; state, url and seen_generation are what the reconciler saw last.
create table planes (
    organization_id text primary key references organizations (id),
    number integer not null constraint planes_number_unique unique default nextval('plane_numbers'),
    wanted text not null constraint planes_wanted_known check (wanted in ('running', 'asleep', 'deleted')),
    generation bigint not null default 1,
    seen_generation bigint not null default 0,
    state text not null constraint planes_state_known
        check (state in ('requested', 'provisioning', 'ready', 'degraded', 'asleep', 'deleting', 'deleted')),
    url text,
    schema_version text,
    database_password_encrypted bytea not null,
    agent_sha256 bytea,
    acknowledged_epoch bigint not null default 0,
    heartbeat_at timestamptz,
    idle_seconds bigint,
    failures integer not null default 0,
    next_try_at timestamptz,
    created_at timestamptz not null
);
create unique index planes_agent_sha256_unique on planes (agent_sha256);

create table plane_conditions (
    organization_id text not null references planes (organization_id),
    kind text not null,
    reason text not null,
    since timestamptz not null,
    primary key (organization_id, kind)
);

create table deletion_receipts (
    organization_id text not null,
    store text not null,
    detail text not null,
    deleted_at timestamptz not null,
    primary key (organization_id, store)
);
