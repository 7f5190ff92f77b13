-- When a plane that sleeps has something to do by itself: it is woken then.
alter table planes add column wake_at timestamptz;
