-- Where a video's trace goes on (W3C `traceparent`), so that whoever follows it later joins the same one.
-- runs-from: 3
alter table videos add column traceparent text;
