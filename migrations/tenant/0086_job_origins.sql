-- A job has the origins of its output, so that a list of jobs walks those that its reader may see and no others. Whatever
-- gives the commit other origins gives them to its job in the same transaction, also a process of the version before this.
alter table jobs add column origin_set_id bigint references origin_sets (id);
update jobs j set origin_set_id = c.origin_set_id from commits c where c.id = j.output_commit_id;
create index jobs_by_origins on jobs (origin_set_id, seq desc) include (pipeline_id) where reproduces is null;
create index jobs_by_origins_and_state on jobs (origin_set_id, state, seq desc) include (pipeline_id)
    where reproduces is null;

create function job_origins_of_output() returns trigger language plpgsql as $$
begin
    new.origin_set_id := (select origin_set_id from commits where id = new.output_commit_id);
    return new;
end $$;
create trigger job_origins_of_output before insert on jobs for each row execute function job_origins_of_output();

create function job_origins_follow() returns trigger language plpgsql as $$
begin
    update jobs set origin_set_id = new.origin_set_id where output_commit_id = new.id;
    return new;
end $$;
create trigger job_origins_follow after update of origin_set_id on commits for each row
    when (old.origin_set_id is distinct from new.origin_set_id and new.pipeline_id is not null)
    execute function job_origins_follow();
