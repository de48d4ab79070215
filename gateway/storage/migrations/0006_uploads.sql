-- runs-from: 3
create table uploads (id text primary key, owner text not null, created_at double precision not null);
