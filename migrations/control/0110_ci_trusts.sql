-- What organizations trust of CI systems: a run that proves all of it by an OIDC token of that issuer gets a token of ours.
create table ci_trusts (
    id text primary key,
    organization_id text not null references organizations (id) on delete cascade,
    name text not null,
    issuer text not null,
    audience text not null,
    service_account_id text not null references service_accounts (id) on delete cascade,
    conditions jsonb not null,
    scopes text[] not null,
    life_minutes integer not null constraint ci_trusts_life_short check (life_minutes between 1 and 15),
    created_at timestamptz not null,
    created_by text not null,
    deleted_at timestamptz
);
create unique index ci_trusts_name_unique on ci_trusts (organization_id, lower(name)) where deleted_at is null;

-- An OIDC token is exchanged once. The row is kept until nothing would believe the token any more.
create table ci_spent (
    digest bytea primary key,
    keep_until timestamptz not null
);
create index ci_spent_by_end on ci_spent (keep_until);

-- The run that a token was exchanged for, and by which trust.
alter table api_tokens add column ci jsonb, add column ci_trust_id text;
create index api_tokens_by_trust on api_tokens (ci_trust_id) where ci_trust_id is not null;
