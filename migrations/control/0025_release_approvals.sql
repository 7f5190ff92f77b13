-- An organization may demand two approvers for each domain of a release, so an approval is a row of its own.

alter table organizations add column release_approvals integer not null default 1
    constraint organizations_release_approvals_known check (release_approvals in (1, 2));

create table release_approvals (
    release_id text not null references releases (id) on delete cascade,
    domain_id text not null,
    approved_by text not null,
    approved_by_name text not null,
    approved_at timestamptz not null,
    primary key (release_id, domain_id, approved_by)
);

insert into release_approvals (release_id, domain_id, approved_by, approved_by_name, approved_at)
    select release_id, domain_id, approved_by, coalesce(approved_by_name, approved_by), coalesce(approved_at, now())
    from release_domains where approved_by is not null;

-- approved_by, approved_by_name and approved_at of release_domains are written and read no more; they go with a later
-- release, when no process of an earlier one reads them.
