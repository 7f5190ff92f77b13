-- The key that a plane's packs are encrypted with, encrypted itself under the master key. Null: its bucket is not encrypted, or the
-- organization is deleted and the key erased.
alter table planes add column data_key_encrypted bytea;
