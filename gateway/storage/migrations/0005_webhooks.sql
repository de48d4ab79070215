-- Messages to callers' own services: where they go, and each of them until it is delivered or given up.
-- For SQLite and PostgreSQL. Only adds, so that the version before may serve beside it.
-- runs-from: 3
create table webhook_endpoints (
    id text primary key,
    owner text not null,
    url text not null,
    events text not null,               -- names of types, a comma before and behind each
    secrets text not null,              -- what signs: JSON, [secret, until], the newest first
    created_at double precision not null,
    disabled_at double precision,       -- it answered that it is gone
    disabled_by text
);
create index webhook_endpoints_by_owner on webhook_endpoints (owner, created_at, id);

-- A request's own place, beside the endpoints of its caller; its origin bounds what goes there at once.
alter table video_requests add column webhook_url text;
alter table video_requests add column webhook_origin text;

-- One row for each event and receiver, in the transaction of the change that it tells.
create table webhook_messages (
    id text primary key,                -- the webhook-id, the same at every try and replay
    event text not null,                -- what the ids of an event's messages begin with
    owner text not null,
    video_id text not null,             -- '' of a test
    endpoint text not null,             -- '' of a request's own webhook_url
    target text not null,               -- who is delayed by nobody else: an endpoint, or an origin
    url text not null,
    type text not null,
    at double precision not null,
    task text,                          -- JSON, as it was then, until the body is made of it
    content text not null,              -- what was asked for (JSON); once there is no task, the very body that is sent
    state text not null check (state in ('pending', 'delivered', 'failed', 'disabled')),
    step bigint not null,               -- how much of the schedule is over; a replay begins anew
    tries bigint not null,              -- all there were
    next_at double precision not null,  -- while it is claimed: when others may take it
    claim text                          -- the replica that is sending it
);
create index webhook_messages_due on webhook_messages (target, next_at) where state = 'pending';
create index webhook_messages_pending on webhook_messages (at) where state = 'pending';
create index webhook_messages_claimed on webhook_messages (claim) where claim is not null;
create index webhook_messages_over on webhook_messages (at) where state <> 'pending';
create index webhook_messages_by_endpoint on webhook_messages (endpoint, at, id);
create index webhook_messages_by_video on webhook_messages (video_id);

create table webhook_tries (
    message_id text not null,
    number bigint not null,
    video_id text not null,
    at double precision not null,
    status bigint,                      -- of the answer, if one came
    error text,                         -- else why none did, in a word
    ms bigint not null,
    primary key (message_id, number)
);
create index webhook_tries_by_video on webhook_tries (video_id);
