-- Files that outlive their vendors' links, and links that need no key. For SQLite and PostgreSQL.
-- runs-from: 3
alter table videos add column file text;                            -- what is known of its stored file (JSON)
alter table videos add column file_key text;                        -- where its bytes are, while they are
alter table videos add column file_until double precision;          -- and until when they are kept
alter table videos add column unstored_since double precision;      -- it has ended, and its file is still to be stored

-- Followed is now also what has a file to be stored. An older program that runs beside asks for less; PostgreSQL
-- sees that this index has it.
drop index videos_by_replica;
create index videos_by_replica on videos (replica, created_at, id)
    where state in ('waiting', 'submitting', 'rendering', 'submission_unknown') or late_until is not null
    or unstored_since is not null;
create index videos_by_file_end on videos (file_until) where file_until is not null;

-- Files that no video names, or none yet: written down before the file is, and gone when a video names it.
create table file_removals (
    key text primary key,
    at double precision not null,       -- not to be removed before
    is_begun bigint not null            -- 1: it may be gone, nothing may name it any more
);
create index file_removals_by_time on file_removals (at);

-- What one replica does for all, and when it was last begun.
create table chores (
    name text primary key,
    at double precision not null
);

create table signing_keys (
    id text primary key,
    secret text not null,               -- hexadecimal
    created_at double precision not null
);
