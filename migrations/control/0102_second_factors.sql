-- Second factors. The secret of an authenticator has to be known to check its codes: it is sealed by the vault. Of recovery codes
-- only a keyed digest is kept; one that was used is gone.
create table authenticators (
    account_id text primary key references accounts (id) on delete cascade,
    sealed_secret bytea not null,
    created_at timestamptz not null,
    confirmed_at timestamptz,
    last_step bigint not null default 0
);

create table recovery_codes (
    account_id text not null references accounts (id) on delete cascade,
    code_mac bytea not null,
    primary key (account_id, code_mac)
);
