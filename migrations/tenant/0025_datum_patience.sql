-- A datum that could not be run waits before it is claimed again. deaths counts the workers that were lost while they had
-- it: from the third on it is a suspect and claimed alone. lost counts claims that came to nothing by no fault of its code:
-- after 20 of them it is given up. The numbers are those of provenance::jobs.
alter table datums add column not_before timestamptz, add column deaths integer not null default 0,
    add column lost integer not null default 0;
create index datums_waiting on datums (not_before) where state = 'pending' and not_before is not null;
create index datums_suspect on datums (job_id, position) where deaths >= 3 and state in ('pending', 'running');
create index datums_hopeless on datums (job_id) where lost >= 20 and state = 'pending';
