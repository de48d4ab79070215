-- What a paid job may still bring, what was bought again for it, and what people ordered. For SQLite and PostgreSQL.
alter table videos add column reruns bigint not null default 0;     -- renders bought after one that failed
alter table videos add column cost_before text;                     -- what the renders before this one may have cost
alter table videos add column rerun_of text;
alter table videos add column adopted_from text;
alter table videos add column late_until double precision;          -- ended, and its vendor is still asked until then
alter table videos add column late_at double precision;
alter table videos add column late_url text;
alter table videos add column late_expires_at double precision;

-- Start-up and takeover read what is unfinished or may still bring something, oldest first; history does not slow them.
drop index videos_unfinished;
create index videos_followed on videos (created_at, id)
    where state in ('waiting', 'submitting', 'rendering', 'submission_unknown') or late_until is not null;

alter table video_requests add column pins text not null default '[]';  -- names of providers, in the caller's order

-- People's orders, which outlive the process: to which providers nothing new may be sent.
create table provider_holds (
    provider text primary key,
    action text not null check (action in ('pause', 'drain')),
    by_whom text not null,
    at double precision not null
);

-- What was sent in the last minute counts against the vendors' rates after a restart.
create index events_of_submissions on events (at) where type = 'submitting';
