-- How people prove who they are. An address is verified once its holder has shown that he reads what comes there. Accounts stay as
-- tombstones when they are deleted: their ids stand in audit trails and provenance.
alter table accounts
    alter column password_hash drop not null,
    add column verified_at timestamptz,
    add column deleted_at timestamptz,
    add column event_seq bigint not null default 0,
    add column event_hash bytea not null default '\x';

alter table sessions
    add column user_agent text not null default '',
    add column address text not null default '',
    add column proved_at timestamptz;
update sessions set proved_at = created_at;
alter table sessions alter column proved_at set not null;

-- The secret that is mailed is another one than the one that whoever invites is shown: only the former proves an address.
alter table invitations add column mailed_sha256 bytea constraint invitations_mailed_sha256_unique unique;

-- Sign-ups whose address is not verified yet: there is no account before that.
create table sign_ups (
    secret_sha256 bytea primary key,
    email text not null,
    email_key text not null,
    password_hash text not null,
    organization text,
    tries integer not null default 0,
    created_at timestamptz not null,
    expires_at timestamptz not null
);
create index sign_ups_by_address on sign_ups (email_key);
create index sign_ups_by_end on sign_ups (expires_at);

-- Codes that were mailed, each for one thing and good once. Without an account it is good for nothing: it was never mailed, and
-- stands there so that both cases cost the same.
create table mailed_codes (
    secret_sha256 bytea primary key,
    purpose text not null constraint mailed_codes_purpose_known
        check (purpose in ('verify-address', 'reset-password', 'new-address', 'undo-address', 'link-identity')),
    account_id text references accounts (id) on delete cascade,
    email text not null,
    email_key text not null,
    issuer text,
    subject text,
    created_at timestamptz not null,
    expires_at timestamptz not null
);
create index mailed_codes_by_account on mailed_codes (account_id);
create index mailed_codes_by_end on mailed_codes (expires_at);

create table account_events (
    account_id text not null references accounts (id) on delete cascade,
    seq bigint not null,
    at timestamptz not null,
    action text not null,
    subject text not null,
    token text not null,
    address text not null,
    prev_hash bytea not null,
    hash bytea not null,
    primary key (account_id, seq)
);

-- In which order mails were written.
alter table mails add column seq bigint generated always as identity;
create index mails_by_order on mails (seq);
