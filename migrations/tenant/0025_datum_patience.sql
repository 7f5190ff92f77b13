-- A datum that could not be run waits before it is claimed again. deaths counts the workers that were lost while they had
-- it: from the third on it is a suspect and claimed alone. After 20 claims it is given up. The numbers are those of
-- provenance::jobs.
alter table datums add column not_before timestamptz, add column deaths integer not null default 0;
create index datums_waiting on datums (not_before) where state = 'pending' and not_before is not null;
create index datums_suspect on datums (job_id, position) where deaths >= 3 and state in ('pending', 'running');
create index datums_hopeless on datums (job_id) where claims >= 20 and state = 'pending';
