-- The keys of datums with join_on or group_by values have these in them now: outputs that were kept under the keys before are
-- not found, so no job up to now of a pipeline with such a version is a base.
update pipelines p set no_base_until = coalesce((select max(seq) from jobs j where j.pipeline_id = p.id), 0)
 where exists (select 1 from pipeline_versions v where v.pipeline_id = p.id
                  and v.spec::text ~* '"(group_?by|join_?on)"');
