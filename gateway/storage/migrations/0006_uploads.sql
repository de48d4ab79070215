-- Images that callers upload before they ask for a video with them. For SQLite and PostgreSQL.
-- runs-from: 3
create table uploads (
    id text primary key,
    owner text not null,
    filename text not null,
    purpose text not null,
    content_type text not null,
    bytes bigint not null,
    sha256 text not null,
    created_at double precision not null,
    expires_at double precision not null
);
create index uploads_by_owner on uploads (owner, created_at, id);
create index uploads_by_expiry on uploads (expires_at);

-- The bytes as a data URI, apart from what is shown: as `video_inputs`, which a create copies them to.
create table upload_contents (
    upload_id text primary key,
    value text not null
);
