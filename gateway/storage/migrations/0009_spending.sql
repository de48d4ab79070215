-- What callers spend: put aside, settled, summed up by day, bounded and stopped. For SQLite and PostgreSQL.
-- Amounts are whole nanos, 1e-9 of their currency; 'day' is the UTC date of a video's acceptance, YYYY-MM-DD.
-- runs-from: 3
alter table videos add column key_id text not null default '';      -- whose order it was; '' from before: not in the ledger
alter table videos add column reserved_amount text;                 -- put aside when it was accepted
alter table videos add column reserved_currency text;
alter table videos add column sent_amount text;                     -- the price of its latest sending alone
alter table videos add column sent_currency text;
alter table videos add column charged_now text not null default 'no';  -- what is known of its latest sending alone

-- What each save changed. Written with it, never changed, and taken into usage_days after a few seconds:
-- so few are here that a sum reads all of them, and no save pays for another index.
create table ledger (
    video_id text not null,
    version bigint not null,            -- of the video that this save made
    part bigint not null,
    day text not null,
    owner text not null,
    key_id text not null,
    provider text not null,             -- the first candidate's while none has it
    model text not null,
    currency text not null,             -- '' where nothing has a price
    reserved bigint not null,
    settled bigint not null,
    accepted bigint not null,
    completed bigint not null,
    failed bigint not null,
    cancelled bigint not null,
    primary key (video_id, version, part)
);

create table usage_days (
    owner text not null,
    day text not null,
    key_id text not null,
    provider text not null,
    model text not null,
    currency text not null,
    reserved bigint not null,
    settled bigint not null,
    accepted bigint not null,
    completed bigint not null,
    failed bigint not null,
    cancelled bigint not null,
    primary key (owner, day, key_id, provider, model, currency)
);

-- The lock under which a key or a team with limits takes from them.
create table allowances (
    kind text not null,
    id text not null,
    passed bigint not null,
    primary key (kind, id)
);

-- While there is a row nothing new is bought.
create table spending_stops (
    name text primary key,
    by_whom text not null,
    at double precision not null
);
