-- The digest of the spec that made a commit, where its record names it: records of commits that were finished before do not.
alter table commits add column recorded_spec_digest bytea;
