-- The digest of the record of a commit whose sources were purged, as it is since then; digest stays what later records name.
alter table commits add column purged_record_digest bytea;
