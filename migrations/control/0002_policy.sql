-- What may be read, and who said so.

-- The id is made by the organization's own data plane, so it is unique inside the organization only.
create table domains (
    organization_id text not null references organizations (id) on delete cascade,
    id text not null,
    project text not null,
    name text not null,
    owner text not null,
    created_at timestamptz not null,
    deleted_at timestamptz,
    primary key (organization_id, id)
);
create unique index domains_name_unique on domains (organization_id, project, name) where deleted_at is null;

-- grantee: acc_…, sa_… or team_…; resource: 'org', 'project:NAME' or dom_….
create table grants (
    id text primary key,
    organization_id text not null references organizations (id) on delete cascade,
    grantee text not null,
    role text not null,
    resource text not null,
    created_at timestamptz not null,
    created_by text not null,
    epoch bigint not null,
    constraint grants_once unique (organization_id, grantee, role, resource)
);
create index grants_by_organization on grants (organization_id, id);

create table releases (
    id text primary key,
    organization_id text not null references organizations (id) on delete cascade,
    pipeline text not null,
    spec_digest text not null,
    purpose text not null,
    retroactive boolean not null,
    created_at timestamptz not null,
    created_by text not null,
    activated_at timestamptz,
    expires_at timestamptz not null,
    revoked_at timestamptz,
    revoked_by text,
    epoch bigint not null
);
create index releases_by_organization on releases (organization_id, id);

create table release_domains (
    release_id text not null references releases (id) on delete cascade,
    domain_id text not null,
    approved_by text,
    approved_by_name text,
    approved_at timestamptz,
    primary key (release_id, domain_id)
);

create table access_requests (
    id text primary key,
    organization_id text not null references organizations (id) on delete cascade,
    principal text not null,
    principal_name text not null,
    reference text not null,
    missing text[] not null,
    message text not null,
    created_at timestamptz not null
);
create index access_requests_by_organization on access_requests (organization_id, id);
