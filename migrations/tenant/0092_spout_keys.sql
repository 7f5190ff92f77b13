-- The newest key of a spout is that of the commit made last, whatever the clock said.
alter table spout_commits add column seq bigint generated always as identity;
drop index spout_commits_newest;
create index spout_commits_in_order on spout_commits (pipeline_id, seq desc) where key is not null;
-- A key answers with a commit that is there: none that was dropped, nor one of the pipeline that had the name before.
create index spout_commits_by_commit on spout_commits (commit_id);
delete from spout_commits s using commits c where c.id = s.commit_id and c.removed_how = 'dropped';
delete from spout_commits s using pipelines p where p.id = s.pipeline_id and p.deleted_at is not null;
-- A commit of a spout with `overwrite: true`: nothing of the commit before it is in it.
alter table commits add column replaces boolean not null default false;
