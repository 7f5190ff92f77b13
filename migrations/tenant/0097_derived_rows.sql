-- An index or a state that nobody reads any more: its rows may be many, and go in batches, outside of the locks under which
-- it was found to be so. One that is gone is never whole.
alter table leaf_indexes add column gone boolean not null default false;
alter table append_states add column gone boolean not null default false;
create index leaf_indexes_gone on leaf_indexes (id) where gone;
create index append_states_gone on append_states (id) where gone;
