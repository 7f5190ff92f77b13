-- What people should know of, a row for each who is told, written in the transaction of what it tells.
create table notices (
    id text primary key,
    organization_id text not null references organizations (id) on delete cascade,
    account_id text not null,
    kind text not null,
    text text not null,
    -- The domains that it names: shown as long as its reader may know of them.
    about text[] not null,
    at timestamptz not null,
    read_at timestamptz
);
create index notices_by_account on notices (account_id, id);
select protect_by_organization('notices');
