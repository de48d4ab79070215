-- What a key may do, and the secrets that it is known by, so that one can take another's place. For both databases.
-- runs-from: 3
alter table keys add column expires_at double precision;
alter table keys add column last_used_at double precision;          -- about: written once a minute at most
alter table keys add column scopes text;                            -- JSON; null: all that its role may
alter table keys add column team text;                              -- owns what its keys create; null: the key does
alter table keys add column providers text;                         -- JSON; null: all
alter table keys add column models text;                            -- JSON; null: all
alter table keys add column limits text not null default '{}';      -- JSON
create index keys_by_time on keys (created_at, id);

-- Several to a key while one takes another's place. A key that is made or rotated now has its own id for a digest
-- in `keys`, which no secret has: the version before would not hold it to its end, its scopes or its team.
create table key_digests (
    digest text primary key,            -- SHA-256 of the whole key, hexadecimal
    key_id text not null,
    hint text not null,                 -- its last four characters, for people
    created_at double precision not null,
    expires_at double precision         -- the end of its overlap
);
create index key_digests_by_key on key_digests (key_id, created_at);
insert into key_digests (digest, key_id, hint, created_at) select digest, id, hint, created_at from keys;
