-- What a plane says of a new image: since when one that has it does not serve, and whether that may be the image's fault, which it is not
-- where the plane did not serve before either.
alter table planes add column rollout_unready_since timestamptz;
alter table planes add column rollout_excused boolean not null default false;
