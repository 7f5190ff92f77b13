-- What files of a commit were fetched from, if anything: addresses without secrets, with what named the version there.
alter table commits add column sources jsonb not null default '[]';
