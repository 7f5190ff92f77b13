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

-- And where a branch points otherwise now, it was made from or moved to another commit at some time.
insert into branch_moves (repo_id, branch, head_id, at)
select b.repo_id, b.name, b.head_id, case when m.at is null then b.created_at else now() end
  from branches b
  left join lateral (select at, head_id from branch_moves m where m.repo_id = b.repo_id and m.branch = b.name
                      order by seq desc limit 1) m on true
 where m.at is null or m.head_id is distinct from b.head_id;
