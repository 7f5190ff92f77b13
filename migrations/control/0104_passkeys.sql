-- Passkeys: public keys of people's devices.
create table passkeys (
    id text primary key,
    account_id text not null references accounts (id) on delete cascade,
    name text not null,
    credential_id bytea not null constraint passkeys_credential_id_unique unique,
    credential jsonb not null,
    created_at timestamptz not null,
    last_used_at timestamptz
);
create index passkeys_by_account on passkeys (account_id, id);

-- Challenges that were given out: each is good once and for a few minutes. With an account, a passkey is to be registered for it.
create table passkey_ceremonies (
    secret_sha256 bytea primary key,
    account_id text references accounts (id) on delete cascade,
    state jsonb not null,
    expires_at timestamptz not null
);
create index passkey_ceremonies_by_end on passkey_ceremonies (expires_at);
