-- Who somebody is at another provider (OpenID Connect), and which account that is.
create table identities (
    issuer text not null,
    subject text not null,
    account_id text not null references accounts (id) on delete cascade,
    created_at timestamptz not null,
    last_used_at timestamptz,
    primary key (issuer, subject)
);
create index identities_by_account on identities (account_id);

-- Log-ins that were begun at a provider: bound to the browser that began them, good once and for a few minutes. With an account, the
-- identity is to be linked to it.
create table provider_log_ins (
    state_sha256 bytea primary key,
    browser_sha256 bytea not null,
    provider text not null,
    nonce text not null,
    sealed_verifier bytea not null,
    account_id text references accounts (id) on delete cascade,
    expires_at timestamptz not null
);
create index provider_log_ins_by_end on provider_log_ins (expires_at);

-- Log-ins whose identity was shown, and whose account asks for a second factor too.
create table half_log_ins (
    browser_sha256 bytea primary key,
    account_id text not null references accounts (id) on delete cascade,
    expires_at timestamptz not null
);
create index half_log_ins_by_end on half_log_ins (expires_at);
