-- The trace of the request that set a job in motion, `00-<trace>-<span>-<flags>`; what has run is recorded under it. Null: nobody records.
alter table jobs add column traceparent text;
