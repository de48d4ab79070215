-- What a replica's calls have met at each provider (JSON), for those that call none. Null: a version that does not tell.
-- runs-from: 3
alter table replicas add column met text;
