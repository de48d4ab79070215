-- The whole first schema. The same text serves SQLite and PostgreSQL. Times are Unix seconds; JSON is text.
create table keys (
    id text primary key,
    name text not null,
    role text not null,
    digest text not null unique,        -- SHA-256 of the whole key, hexadecimal; the key itself is nowhere
    hint text not null,                 -- its last four characters, for people
    created_at double precision not null,
    revoked_at double precision
);

-- The hot row: what the engine needs to go on. Narrow, because every transition rewrites it.
create table videos (
    id text primary key,
    owner text not null,
    model text not null,
    state text not null,
    status text not null,
    stage text,
    version bigint not null,
    last_seq bigint not null,
    replica text,
    priority bigint not null,
    candidates text not null,
    ruled_out text not null,
    provider text,
    offering text,
    vendor_task_id text,
    ref text,
    raw_status text,
    raw_status_at double precision,
    progress bigint not null,
    attempts bigint not null,
    resubmits bigint not null,
    estimate_seconds double precision,
    created_at double precision not null,
    deadline_at double precision not null,
    submitted_at double precision,
    started_at double precision,
    unknown_at double precision,
    completed_at double precision,
    result_url text,
    result_expires_at double precision,
    error_code text,
    error_message text,
    charged text not null,
    charged_before text not null,       -- by sendings before the last recorded permission
    cost_amount text,
    cost_currency text
);
create index videos_by_owner on videos (owner, created_at, id);
-- Start-up and takeover read only what is unfinished; history does not slow them.
create index videos_unfinished on videos (state, created_at) where state in ('waiting', 'submitting', 'rendering', 'submission_unknown');
-- One vendor job belongs to one video: a vendor that gives one id twice must not merge two of them.
create unique index videos_by_vendor_task on videos (provider, vendor_task_id) where vendor_task_id is not null;

-- The cold row: written once, read when it is submitted or shown.
create table video_requests (
    video_id text primary key,
    request text not null,
    metadata text not null
);

-- Image bytes of a request, as data URIs, apart from what is shown.
create table video_inputs (
    video_id text not null,
    field text not null,
    value text not null,
    primary key (video_id, field)
);

create table video_labels (
    owner text not null,
    name text not null,
    value text not null,
    video_id text not null,
    primary key (owner, name, value, video_id)
);
create index video_labels_by_video on video_labels (video_id);

create table events (
    video_id text not null,
    seq bigint not null,
    at double precision not null,
    type text not null,
    status text not null,
    stage text,
    provider text,
    offering text,
    detail text not null,
    primary key (video_id, seq)
);

create table idempotency_keys (
    owner text not null,
    name text not null,
    fingerprint text not null,
    video_id text not null,
    created_at double precision not null,
    primary key (owner, name)
);
