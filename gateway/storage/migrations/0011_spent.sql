-- Money by day and by month, one row for a key: so what a cap counts is a few rows, whatever a team's keys used.
-- Amounts (put aside and settled together) are nanos; it tells what usage_days tells, and changes with it.
-- runs-from: 3
create table spent_periods (
    owner text not null,
    period text not null,               -- YYYY-MM-DD or YYYY-MM
    currency text not null,
    key_id text not null,
    amount bigint not null,
    primary key (owner, period, currency, key_id)
);
insert into spent_periods (owner, period, currency, key_id, amount)
    select owner, day, currency, key_id, sum(reserved + settled) from usage_days group by 1, 2, 3, 4;
insert into spent_periods (owner, period, currency, key_id, amount)
    select owner, substr(day, 1, 7), currency, key_id, sum(reserved + settled) from usage_days group by 1, 2, 3, 4;
create index usage_days_by_day on usage_days (day);
