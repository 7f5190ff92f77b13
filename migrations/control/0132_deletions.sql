-- A deleted organization is kept for a while: its state is `deleting`, nobody has access, its plane sleeps. Then it is erased.
-- Null: it was deleted before there was such a while.
alter table organizations add column kept_until timestamptz;

-- Who owned it when it was deleted: they may have it back, and read the receipt when nothing else is left.
create table former_owners (
    organization_id text not null references organizations (id),
    account_id text not null,
    primary key (organization_id, account_id)
);
create index former_owners_by_account on former_owners (account_id);
select protect_by_organization('former_owners');

-- The receipt as it was signed, once everything is gone.
create table organization_receipts (
    organization_id text primary key references organizations (id),
    document text not null,
    digest text not null,
    signed text not null
);
select protect_by_organization('organization_receipts');
