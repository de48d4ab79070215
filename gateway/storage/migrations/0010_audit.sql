-- What operators and admins did, one row each, written with the change itself. For SQLite and PostgreSQL.
-- runs-from: 3
create table audit (
    id text primary key,
    at double precision not null,
    actor text not null,                -- as a timeline names an operator, or 'command line'
    key_id text,                        -- the caller's key, and the role it had
    role text,
    action text not null,               -- thing.done
    object text not null,               -- the id or name of what was acted on
    before text not null,               -- what it was (JSON, null where there was nothing); never a secret
    after text not null,                -- and what it became
    request_id text
);
create index audit_by_time on audit (at, id);
create index audit_by_object on audit (object, at, id);
