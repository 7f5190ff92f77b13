-- The lines of one datum, and the last of them.
create index datum_logs_by_datum on datum_logs (job_id, datum_key, seq);
