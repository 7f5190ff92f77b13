-- A job that runs again what made a commit, to compare: reproduces names that commit, reproduced says what came of it. The
-- results of its datums stand in datum_results under its own id and are deleted with its end.
alter table jobs
    add column reproduces uuid references commits (id),
    add column reproduced jsonb;
alter table datum_results drop constraint datum_results_pipeline_id_fkey;
-- One at a time of each commit.
create unique index jobs_reproducing on jobs (reproduces) where finished_at is null and reproduces is not null;
