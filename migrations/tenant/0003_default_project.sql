-- The project that always exists.
insert into projects (id, name, created_at) values (gen_random_uuid(), 'default', now())
on conflict on constraint projects_name_unique do nothing;
