-- By which teams a sponsor holds `derive`, not by which grants to them: another role is another grant. Of those that were kept
-- by grants nothing is known any more; they are kept again when it is looked next.
delete from pipeline_grounds where not own and by_teams <> '{}';
alter table pipeline_grounds rename column by_teams to teams;
update pipeline_grounds set teams = '{}';

-- Of one pipeline's jobs, which origin sets there are, past no rows of other pipelines.
create index jobs_by_origins_of_pipeline on jobs (origin_set_id, pipeline_id, seq desc) where reproduces is null;
