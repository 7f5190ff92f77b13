-- Pipelines whose command receives from outside and makes commits itself. Each has a repo, always empty, that is the domain of
-- what it received as long as nobody attested it.
create table spouts (
    repo_id uuid primary key references repos (id),
    pipeline_id uuid not null constraint spouts_one_each unique references pipelines (id)
);
-- Commits of spouts: unattested_id is that domain, attested who attested the commit, when and why. Their content holds that of
-- the commit before them, as that of commits by people does.
alter table commits
    add column unattested_id uuid references repos (id),
    add column attested jsonb;
-- What asked for each commit, so that asking again makes no other: the worker's request, and the key that the code gave.
create table spout_commits (
    request uuid primary key,
    pipeline_id uuid not null references pipelines (id),
    key text,
    commit_id uuid not null references commits (id),
    at timestamptz not null,
    constraint spout_commits_once unique (pipeline_id, key)
);
create index spout_commits_newest on spout_commits (pipeline_id, at desc) where key is not null;
-- A spout is kept running as a service is, and has no port.
alter table services alter column port drop not null;
