-- Where each branch pointed when: `repo@branch@time` is what it looked like then, also after moves and deletions.
create table branch_moves (
    repo_id uuid not null references repos (id),
    branch text not null,
    seq bigint generated always as identity,
    -- null: the branch was deleted, or made without a commit
    head_id uuid references commits (id),
    at timestamptz not null,
    primary key (repo_id, branch, seq)
);

-- What is known of the time before: every commit became the head of its branch when it was made.
insert into branch_moves (repo_id, branch, head_id, at)
select repo_id, branch, id, started_at from commits order by seq;
