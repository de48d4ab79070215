-- Several processes on one database, and what renders take. For SQLite and PostgreSQL.
alter table schema_version add column runs_from bigint;             -- the oldest schema whose programs may start on this one

alter table videos add column duration bigint;                      -- of the video asked for, seconds: what its render time depends on
alter table videos add column audio bigint;                         -- 1 with sound, 0 without

-- Every task has an owner; '' is nobody yet.
update videos set replica = '' where replica is null;
-- Start-up and takeover read what one owner left, oldest first; history does not slow them.
drop index videos_followed;
create index videos_by_replica on videos (replica, created_at, id)
    where state in ('waiting', 'submitting', 'rendering', 'submission_unknown') or late_until is not null;
-- A place at a provider's gate, and in the line, is counted over all replicas.
create index videos_in_flight on videos (provider) where state in ('submitting', 'rendering', 'submission_unknown');
create index videos_waiting on videos (priority, created_at) where state = 'waiting';
-- A page by any one filter is a walk along an index in the order of pages, however seldom the value is.
create index videos_by_status on videos (owner, status, created_at, id);
create index videos_by_stage on videos (owner, stage, created_at, id);
create index videos_by_model on videos (owner, model, created_at, id);
create index videos_by_provider on videos (owner, provider, created_at, id);
-- What ended lately, for who waits at another replica than the one that saw it.
create index videos_ended on videos (completed_at) where completed_at is not null;

-- A label has the time of its video, which never changes, so that its key is in the order of pages, too.
drop index video_labels_by_video;
alter table video_labels rename to video_labels_before;
create table video_labels (
    owner text not null,
    name text not null,
    value text not null,
    created_at double precision not null,
    video_id text not null,
    constraint video_labels_by_time primary key (owner, name, value, created_at, video_id)
);
insert into video_labels (owner, name, value, created_at, video_id)
    select l.owner, l.name, l.value, v.created_at, l.video_id
    from video_labels_before l join videos v on v.id = l.video_id;
drop table video_labels_before;
create index video_labels_by_video on video_labels (video_id);

-- All events of one save are one row: the last as before, those before it in `earlier` (JSON).
alter table events add column earlier text not null default '[]';
alter table events add column count bigint not null default 1;      -- how many they are

-- One row for each process that serves. Times by the clock of the database.
create table replicas (
    id text primary key,
    place text not null,                -- host and port: who starts there proves that the one before is gone
    role text not null,
    version text not null,
    started_at double precision not null,
    beat_at double precision not null,
    ended_at double precision,          -- declared dead, or gone: what it owned is anybody's
    following text not null             -- how many jobs it follows at each provider (JSON), to divide budgets by
);

-- The lock under which a place at a provider with a cap or rate is taken, and what was sent there lately.
create table provider_gates (
    provider text primary key,
    passed bigint not null
);
create table provider_sendings (
    provider text not null,
    at double precision not null
);
create index provider_sendings_by_time on provider_sendings (provider, at);

-- How many renders of a kind took how long: a small histogram, added to by every replica.
create table render_times (
    provider text not null,
    offering text not null,
    duration bigint not null,
    audio bigint not null,
    bin bigint not null,
    count double precision not null,
    primary key (provider, offering, duration, audio, bin)
);
