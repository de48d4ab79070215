-- What a caller's event stream needs: whose an event is, and an order of commits that a position can name.
-- runs-from: 3
-- `owner` is '' in rows of before, and in those that a replica of the version before writes meanwhile.
alter table events add column owner text not null default '';
-- The transaction that wrote the row; on SQLite a number that grows with each row.
alter table events add column written bigint not null default (pg_current_xact_id()::text::bigint);
create index events_by_owner on events (owner, written);

-- Which database this is, made up at first use: the positions of another mean nothing here.
create table event_log (place bigint primary key, id text not null);
