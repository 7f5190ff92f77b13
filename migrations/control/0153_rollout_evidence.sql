-- What a plane that was told to have a new image says of it. `awaited`: it served when it was told, and the rollout waits for it;
-- `excused`: something kept it from serving already; `trusted`: it served with it for a while, or slept when it was told. And since when it
-- serves without a break, and since when it has not served for that while.
alter table planes add column rollout_part text constraint planes_rollout_part_known check (rollout_part in ('awaited', 'excused', 'trusted'));
alter table planes add column rollout_ready_since timestamptz;
alter table planes add column rollout_unready_since timestamptz;
