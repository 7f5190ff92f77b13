-- How many datums of a job a worker claims at a time, and how large they may be together: of its version's spec.
alter table pipeline_versions
    add column datum_set_number bigint,
    add column datum_set_bytes bigint;
-- Bytes of what a datum reads; 0 of those that were planned before.
alter table datums add column size_bytes bigint not null default 0;
