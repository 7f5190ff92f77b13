-- Who the customers are, what they may do, where their planes run. Ids are stored in their text form: one kind cannot be
-- joined with another, and a row says by itself what it names.

create table accounts (
    id text primary key,
    email text not null,
    email_key text not null constraint accounts_email_key_unique unique,
    password_hash text not null,
    created_at timestamptz not null
);

create table sessions (
    id text primary key,
    account_id text not null references accounts (id) on delete cascade,
    secret_sha256 bytea not null constraint sessions_secret_sha256_unique unique,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    last_used_at timestamptz,
    revoked_at timestamptz
);
create index sessions_by_account on sessions (account_id, id);

-- The row of an organization is also the lock under which its policy and its audit chain change.
create table organizations (
    id text primary key,
    name text not null,
    state text not null constraint organizations_state_known check (state in ('active', 'suspended', 'deleting', 'deleted')),
    epoch bigint not null default 1,
    audit_seq bigint not null default 0,
    audit_hash bytea not null default '\x',
    created_at timestamptz not null,
    deleted_at timestamptz
);
create unique index organizations_name_unique on organizations (lower(name)) where state <> 'deleted';

create table members (
    organization_id text not null references organizations (id) on delete cascade,
    account_id text not null references accounts (id) on delete cascade,
    role text not null constraint members_role_known check (role in ('member', 'auditor', 'billing', 'admin', 'owner')),
    joined_at timestamptz not null,
    primary key (organization_id, account_id)
);
create index members_by_account on members (account_id);

create table invitations (
    id text primary key,
    organization_id text not null references organizations (id) on delete cascade,
    email text not null,
    email_key text not null,
    role text not null,
    secret_sha256 bytea not null constraint invitations_secret_sha256_unique unique,
    created_at timestamptz not null,
    created_by text not null,
    expires_at timestamptz not null,
    accepted_at timestamptz,
    accepted_by text,
    revoked_at timestamptz
);
create index invitations_by_organization on invitations (organization_id, id);

create table service_accounts (
    id text primary key,
    organization_id text not null references organizations (id) on delete cascade,
    name text not null,
    created_at timestamptz not null,
    created_by text not null,
    deleted_at timestamptz
);
create unique index service_accounts_name_unique on service_accounts (organization_id, lower(name)) where deleted_at is null;

-- Who belongs to which organization: people and service accounts alike.
create view memberships as
    select m.organization_id, a.id as principal, a.email as name, m.role, m.joined_at
    from members m join accounts a on a.id = m.account_id
    union all
    select s.organization_id, s.id, s.name, 'member', s.created_at
    from service_accounts s where s.deleted_at is null;

create table teams (
    id text primary key,
    organization_id text not null references organizations (id) on delete cascade,
    name text not null,
    created_at timestamptz not null
);
create unique index teams_name_unique on teams (organization_id, lower(name));

create table team_members (
    team_id text not null references teams (id) on delete cascade,
    principal text not null,
    primary key (team_id, principal)
);
create index team_members_by_principal on team_members (principal);

-- organization_id is null for a person's token that is good for all organizations of that person.
create table api_tokens (
    id text primary key,
    principal text not null,
    organization_id text references organizations (id) on delete cascade,
    name text not null,
    scopes text[] not null,
    secret_sha256 bytea not null constraint api_tokens_secret_sha256_unique unique,
    created_at timestamptz not null,
    created_by text not null,
    expires_at timestamptz not null,
    last_used_at timestamptz,
    revoked_at timestamptz
);
create index api_tokens_by_principal on api_tokens (principal, id);

create table audit_events (
    organization_id text not null,
    seq bigint not null,
    at timestamptz not null,
    actor text not null,
    actor_name text not null,
    token text not null,
    action text not null,
    subject text not null,
    prev_hash bytea not null,
    hash bytea not null,
    primary key (organization_id, seq)
);
