-- runs-from: 3
create table signing_keys (id text primary key, secret text not null, created_at double precision not null);
