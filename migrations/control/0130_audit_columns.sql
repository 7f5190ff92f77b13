-- Rows of the audit trail say by what credential, in which request and from where; format 2 of their hash covers that. Rows of
-- format 1 stay as they are, and so does their hash.
alter table audit_events
    add column format integer not null default 1 constraint audit_events_format_known check (format in (1, 2)),
    add column via text not null default '',
    add column request_id text not null default '',
    add column address text not null default '';
create index audit_events_by_time on audit_events (organization_id, at);

-- A trail grows and does nothing else, whoever asks.
create function audit_events_are_kept() returns trigger language plpgsql as $$
begin
    raise exception 'rows of the audit trail are neither changed nor removed';
end $$;
create trigger audit_events_are_kept before update or delete or truncate on audit_events
    for each statement execute function audit_events_are_kept();
