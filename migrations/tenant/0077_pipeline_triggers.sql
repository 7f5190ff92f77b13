-- Branches that a pipeline's input has made follow another one; null: somebody made them.
alter table branch_triggers add column pipeline_id uuid references pipelines (id);
create index branch_triggers_by_pipeline on branch_triggers (pipeline_id) where pipeline_id is not null;
