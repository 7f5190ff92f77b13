-- The reproductions of a commit, newest first.
create index jobs_by_reproduced on jobs (reproduces, id desc) where reproduces is not null;
