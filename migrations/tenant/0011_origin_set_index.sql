-- Lists begin with the origin sets that the caller may read, among those that outputs of a pipeline have.
create index commits_by_origin_set on commits (origin_set_id, repo_id) where pipeline_id is not null;
