-- runs-from: 3
create table webhook_endpoints (id text primary key, owner text not null, url text not null);
