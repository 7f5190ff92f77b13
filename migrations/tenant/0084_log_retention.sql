-- How much of its lines each job has: bytes with 64 more for each line, when the oldest that is there was printed, how many
-- are gone because of their age or number, and until when those were printed.
create table job_logs (
    job_id uuid primary key references jobs (id),
    bytes bigint not null,
    oldest_at timestamptz,
    lines_gone bigint not null default 0,
    gone_until timestamptz
);
insert into job_logs (job_id, bytes, oldest_at)
select job_id, sum(octet_length(text) + 64), min(at) from datum_logs group by job_id;
create index job_logs_by_age on job_logs (oldest_at) where oldest_at is not null;
create index job_logs_by_size on job_logs (bytes);
