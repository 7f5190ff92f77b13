-- Branches that follow another branch of their repo when enough has come there.
create table branch_triggers (
    repo_id uuid not null,
    branch text not null,
    source text not null,
    size_bytes bigint,
    commits bigint,
    cron text,
    all_hold boolean not null,
    actor jsonb not null,
    created_at timestamptz not null,
    fired_at timestamptz,
    -- the commit of the watched branch that it followed to last
    followed_id uuid references commits (id),
    -- why it did not fire when it should have
    reason text,
    primary key (repo_id, branch),
    foreign key (repo_id, branch) references branches (repo_id, name) on delete cascade
);
create index branch_triggers_by_source on branch_triggers (repo_id, source);
