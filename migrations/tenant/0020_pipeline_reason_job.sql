-- The job that a pipeline's reason speaks of: it tells of that job's inputs, so it is shown to whom may read those.
alter table pipelines add column reason_job_id uuid references jobs (id);
