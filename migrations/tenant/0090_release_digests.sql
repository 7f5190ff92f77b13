-- What a release of a commit has to name (R9), where that is not the digest of its version's spec: of a pipeline whose code
-- stands in a repo, the digest of the spec and of that code. Empty: nothing that could be named is known.
alter table commits add column release_digest bytea;
update commits c set release_digest = ''
  from pipeline_versions v
 where v.pipeline_id = c.pipeline_id and v.version = c.pipeline_version and v.spec #> '{transform,code}' is not null;
